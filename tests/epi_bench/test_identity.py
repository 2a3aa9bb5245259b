"""What makes two runs the same run."""

import pytest

from epi_bench.config import complete_spec
from epi_bench.errors import UserError
from epi_bench.identity import run_id


def identity(fingerprints=None, **values):
    return run_id(complete_spec(values), fingerprints or {})


def epi(**options):
    return {"strategy": {"name": "epi", "options": options}}


def test_a_default_said_aloud_is_the_same_run():
    from epi_bench.options import options_of
    from epi_bench.strategy import STRATEGIES

    defaults = {n: o.default for n, o in options_of(STRATEGIES.get("epi")).items()}
    assert identity(**epi()) == identity(**epi(**defaults))
    assert identity(**epi()) == identity(**epi(ratio=str(defaults["ratio"])))
    mixed = {"kind": "mixed"}
    assert identity(stream=mixed) == identity(stream={**mixed, "options": {"mixing": "concat"}})
    assert identity(seed=0) == identity()


def test_a_setting_that_changes_results_makes_another_run():
    runs = [
        identity(),
        identity(strategy={"name": "full_sft"}),
        identity(**epi(ratio=0.25)),
        identity(seed=1),
        identity(stream={"kind": "mixed"}),
        identity(stream={"order": "random"}),
        identity(training={"learning_rate": 0.5}),
        identity({"model": "0123"}),
    ]
    assert len(set(runs)) == len(runs)


def test_a_changed_default_of_a_strategy_makes_another_run(monkeypatch):
    from epi_bench.strategy import STRATEGIES

    before = identity(**epi())
    constructor = STRATEGIES.get("epi").__init__
    changed = (0.125, *constructor.__defaults__[1:])
    monkeypatch.setattr(constructor, "__defaults__", changed)
    assert identity(**epi()) != before


def test_the_evaluation_batch_cannot_change_a_result():
    assert identity(evaluation={"batch_size": 7}) == identity(evaluation={"batch_size": 70})


def test_an_unknown_option_is_refused():
    with pytest.raises(UserError, match="ratio"):
        identity(**epi(ration=0.5))
