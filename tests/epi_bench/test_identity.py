"""What makes two runs the same run."""

from pathlib import Path

import pytest

from epi_bench.config import complete_spec
from epi_bench.errors import UserError
from epi_bench.identity import run_id

LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"


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


@pytest.mark.parametrize("name", ["epi", "static_mask", "inverted_mask"])
def test_an_option_added_later_makes_another_run_only_where_it_differs(name, monkeypatch):
    from epi_bench.strategy import STRATEGIES

    cls = STRATEGIES.get(name)
    plain = identity(strategy={"name": name})

    def with_options(**options):
        return identity(strategy={"name": name, "options": options})

    assert with_options(importance="ema", offload=False) == plain
    others = [with_options(importance=m) for m in ("ema_bf16", "factored", "optimizer")]
    assert len({plain, *others}) == 4
    # the value left out is the one of the published runs, not whatever the default becomes
    defaults = cls.__init__.__defaults__
    changed = tuple("ema_bf16" if value == "ema" else value for value in defaults)
    monkeypatch.setattr(cls.__init__, "__defaults__", changed)
    assert with_options() == others[0]
    assert with_options(importance="ema") == plain


def test_published_runs_keep_their_identity():
    from epi_bench.record_file import load_record
    from epi_bench.strategy import STRATEGIES

    paths = sorted(LEADERBOARDS.glob("*/*.json"))
    if not paths:
        pytest.skip("this copy has no published records")
    for path in paths:
        record = load_record(path)
        if not STRATEGIES.is_builtin(record.strategy.name):
            continue
        tasks = {f"task:{name}": value for name, value in record.fingerprints.tasks.items()}
        fingerprints = {"model": record.fingerprints.model, **tasks}
        assert run_id(record.spec, fingerprints, record.environment.execution) == record.run_id, (
            path
        )
