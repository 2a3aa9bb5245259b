"""The sweep over mini-keep, and the table that is made of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from epi_bench.errors import UserError

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)

    def load(name):
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


def test_every_pair_has_every_strategy_and_a_sweep_over_learning_rates(script):
    specs = script("sweep_keep").specs(Path("mini_keep"))
    by_pair = {}
    for spec in specs:
        by_pair.setdefault((spec.data.tasks, spec.seed), []).append(spec)
    assert len(by_pair) == 8
    for runs in by_pair.values():
        chosen = {(run.strategy.name, tuple(run.strategy.options.items())) for run in runs}
        rates = [r.training.learning_rate for r in runs if r.strategy.name == "full_sft"]
        assert len(rates) == len(set(rates)) + 1 == 6  # one of them with its WiSE-FT curve
        assert sum(r.evaluation.wise_ft_curve for r in runs) == 1
        assert {("ewc", (("protect_base", "self"),)), ("hft", ())} <= chosen
        # they would be full fine-tuning on a stream of one experience
        assert not {("ewc", ()), ("inc_lora", ())} & chosen
    assert len({spec.model_dump_json() for spec in specs}) == len(specs)


def _run(name, seed, learned, kept, rate=0.1, curve=None, **options):
    """A run whose base model has 10 points on the new task, 80 and 60 on the others."""
    points = [(10.0, 80.0, 60.0), *(curve or [])]
    wise_ft = SimpleNamespace(
        tasks=("new", "a", "b"), points=[SimpleNamespace(values=values) for values in points]
    )
    return SimpleNamespace(
        spec=SimpleNamespace(
            seed=seed,
            strategy=SimpleNamespace(options=options),
            training=SimpleNamespace(learning_rate=rate),
        ),
        strategy=SimpleNamespace(name=name),
        task_order=("new",),
        score_matrix=SimpleNamespace(values=[[10.0], [learned]]),
        eval_scores=object(),
        wise_ft=wise_ft if curve else None,
        metrics={
            "average_accuracy": learned,
            "task_retention": kept,
            "worst_task_retention": 2 * kept,
            "kl_to_base": 1.0,
        },
    )


RUNS = [
    _run("full_sft", 0, 90.0, -60.0, curve=[(50.0, 80.0, 20.0), (90.0, 20.0, 0.0)]),
    _run("full_sft", 1, 90.0, -50.0),
    _run("full_sft", 0, 50.0, -10.0, rate=0.05),
    _run("full_sft", 1, 50.0, -10.0, rate=0.05),
    _run("wise_ft", 0, 70.0, -30.0),
    _run("wise_ft", 1, 30.0, -4.0),
    _run("ewc", 0, 95.0, -20.0, protect_base="self"),
]


def test_what_is_kept_is_compared_at_the_same_rate_and_at_equal_learning(script):
    """With seed 0 the curve keeps -35 at 70; with seed 1 it keeps -5 at 30, between base and 50."""
    table = script("keep_table")
    lines = {line.label: line for line in table.kept_by_strategy(RUNS)}
    wise = lines["wise_ft"]
    assert wise.against_baseline.mean_difference == pytest.approx((30 + 46) / 2)
    assert wise.at_equal_learning.mean_difference == pytest.approx((5 + 1) / 2)
    assert lines["ewc (protect_base=self)"].at_equal_learning.mean_difference == 40
    # on the way -20 is kept at 50 and -60 at 90: at 70 it is -40
    assert wise.on_the_way.mean_difference == pytest.approx(-30 + 40)
    assert lines["full_sft (learning_rate=0.05)"].at_equal_learning.mean_difference == 0
    assert next(iter(lines)) == "ewc (protect_base=self)"
    text = table.table(list(lines.values()))
    assert "| `wise_ft` | 2 | 50.0 ± 254.1 | -17.0 ± 165.2 |" in text


def test_without_full_fine_tuning_there_is_no_comparison(script):
    with pytest.raises(UserError, match="full_sft at its defaults"):
        script("keep_table").kept_by_strategy(RUNS[4:])
