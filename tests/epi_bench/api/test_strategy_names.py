"""Names of strategies, of families, and ``all``."""

from __future__ import annotations

import pytest

import epi_bench
from epi_bench import RunObserver, UserError
from epi_bench.api.selection import Selection
from epi_bench.api.strategy_names import chosen_strategies
from epi_bench.strategy.strategy import STRATEGIES


def test_all_is_every_strategy_and_a_family_is_its_own():
    assert list(chosen_strategies(["all"]).names) == STRATEGIES.names()
    baselines = {"early_stop", "full_sft", "low_learning_rate"}
    assert baselines <= set(chosen_strategies(["baseline"]).names)
    adapters = set(chosen_strategies(["adapter"]).names)
    assert {"lora", "o_lora"} <= adapters
    assert not adapters & {"epi", "ewc"}


def test_names_stay_in_their_order_and_stand_once():
    chosen = chosen_strategies(["replay", "baseline", "full_sft", "epi"])
    assert chosen.names[:4] == ("replay", "early_stop", "full_sft", "low_learning_rate")
    assert chosen.names[-1] == "epi"
    assert len(chosen.names) == len(set(chosen.names))
    assert chosen.by_name == {"replay", "full_sft", "epi"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("masks", "unknown strategy 'masks': did you mean 'mask'"),
        ("penalyt", "did you mean 'penalty'"),
        ("al", "did you mean 'all'"),
    ],
)
def test_the_error_for_an_unknown_name_knows_families(name, message):
    with pytest.raises(UserError, match=message):
        chosen_strategies([name])


def _selected(strategies, stream):
    given = {"stream": {"kind": stream}}
    selection = Selection(given, strategies, [], None, [], 1, None, [], None)
    return [spec.strategy.name for spec in selection.specs()], selection.left_out


def test_what_a_family_brings_along_is_left_out_where_it_would_be_full_fine_tuning():
    """What is named itself never is, nor what pulls to the base model from the first step on."""
    names, left_out = _selected("penalty,ewc,full_sft", "mixed")
    assert names == ["ewc", "kl_to_base", "lwf", "full_sft"]
    assert {"l2_sp", "si"} <= set(left_out)
    assert _selected("penalty,ewc", "sequential")[1] == []


def test_a_family_of_which_nothing_is_left_is_an_error():
    with pytest.raises(UserError, match="every strategy of rehearsal acts from a later experience"):
        _selected("rehearsal", "mixed")
    with pytest.raises(UserError, match="every strategy of rehearsal acts from a later experience"):
        epi_bench.compare("rehearsal", stream="mixed", observer=RunObserver())


def test_compare_takes_a_family_among_names(monkeypatch):
    asked = []

    def record_specs(specs, request, jobs, observer):
        asked.extend(spec.strategy.name for spec in specs)
        return iter(())

    monkeypatch.setattr("epi_bench.api.runs.make_runs", record_specs)
    epi_bench.compare(["replay", "baseline"], observer=RunObserver())
    assert asked[:4] == ["replay", "early_stop", "full_sft", "low_learning_rate"]
