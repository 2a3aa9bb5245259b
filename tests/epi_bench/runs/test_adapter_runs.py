"""Runs whose strategy trains an adapter: what they are called, recorded and kept as."""

from __future__ import annotations

import pytest
import torch

import epi_bench
from epi_bench.api.selection import Selection
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import group_by_configuration
from epi_bench.runs.identity import run_id
from epi_bench.runs.references import reference_spec
from epi_bench.runs.saving import KeepModel
from epi_bench.runs.warnings import adapter_warnings
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import AdapterSpec
from epi_bench.strategy.strategy import create_strategy

LORA = {"adapter": {"kind": "lora", "rank": 2}}


def test_an_adapter_makes_another_run_and_none_leaves_it_alone():
    def identity(**settings):
        return run_id(complete_spec(settings), {"model": "m"})

    plain = identity()
    assert identity(adapter={"kind": "none"}) == plain
    ids = {identity(adapter={"kind": "lora"}), identity(**LORA), plain}
    assert len(ids) == 3


def test_references_are_full_fine_tuning_without_it():
    spec = complete_spec({**LORA, "strategy": {"name": "ewc"}})
    assert reference_spec(spec, "mini_math").adapter == AdapterSpec()
    assert spec.label == "ewc + lora"
    assert reference_spec(spec, "mini_math").label == "full_sft"


@pytest.mark.parametrize("keep", [KeepModel.EVERY_EXPERIENCE])
def test_a_run_keeps_it_as_adapter_and_merged(run_toy, toy_model, keep):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    outcome = run_toy("wise_ft", {"alpha": 0.5}, steps=2, request={"keep_model": keep}, **LORA)
    record = outcome.record
    assert record.spec.adapter == AdapterSpec(kind="lora", rank=2)
    assert record.cost.trainable_parameters < record.cost.total_parameters / 2
    folder, load = outcome.path.parent, AutoModelForCausalLM.from_pretrained
    names = sorted(path.name for path in (folder / "models").iterdir())
    assert names == sorted(path.name for path in (folder / "adapters").iterdir())
    assert len(names) == 2
    for name in names:
        whole = dict(load(folder / "models" / name).named_parameters())
        adapted = PeftModel.from_pretrained(load(toy_model), folder / "adapters" / name)
        for parameter, tensor in adapted.merge_and_unload().named_parameters():
            torch.testing.assert_close(tensor, whole[parameter])


def test_an_adapter_that_is_not_the_whole_model_is_not_kept(run_toy):
    """Sums of adapters, and single weights that were given back, are no adapter of that rank."""
    for strategy in ("task_arithmetic", "restore_most_changed"):
        outcome = run_toy(strategy, steps=1, request={"keep_model": KeepModel.FINAL}, **LORA)
        assert [p.name for p in (outcome.path.parent / "models").iterdir()] == ["final"]
        assert not (outcome.path.parent / "adapters").exists()


@pytest.mark.parametrize("name", ["lora", "o_lora"])
def test_a_strategy_with_an_adapter_of_its_own_refuses_it(run_toy, name, tmp_path):
    message = f"{name} brings an adapter of its own: leave adapter.kind=lora out"
    with pytest.raises(UserError, match=message) as told:
        run_toy(name, {}, out=tmp_path, **LORA)
    assert told.value.settings == ("adapter.kind",)
    assert not list(tmp_path.rglob("run.toml"))


def test_averages_of_two_adapters_are_refused(run_toy, tmp_path):
    with pytest.raises(UserError, match="scope=each averages the adapters of two experiences"):
        run_toy("wise_ft", {"scope": "each"}, out=tmp_path, **LORA)


def test_protecting_the_base_under_a_fresh_adapter_says_what_it_can():
    adapter = AdapterSpec(kind="lora")
    protecting = create_strategy("ewc", {"protect_base": "self"})
    [told] = adapter_warnings(protecting, adapter)
    assert "nothing about A" in told
    assert adapter_warnings(protecting, AdapterSpec()) == []
    assert adapter_warnings(create_strategy("ewc", {}), adapter) == []


def test_runs_with_and_without_are_no_repetitions(make_run):
    plain = make_run("ewc")
    adapted = plain.model_copy(
        update={"spec": plain.spec.model_copy(update={"adapter": AdapterSpec(kind="lora", rank=4)})}
    )
    groups = group_by_configuration([plain, adapted])
    assert list(groups) == ["ewc", "ewc (adapter=lora, adapter_rank=4)"]


def _selection(strategies):
    return Selection(
        given={"adapter": {"kind": "lora"}},
        strategies=strategies,
        strategy_options=[],
        tasks=None,
        stream_options=[],
        seeds=1,
        config=None,
        plugins=[],
        data_dir=None,
    )


def test_families_leave_out_what_cannot_train_it():
    selection = _selection("mask,adapter,lora")
    names = {spec.strategy.name for spec in selection.specs()}
    assert {"epi", "hft", "lora"} <= names  # what is named itself refuses by itself
    assert {"osf", "o_lora", "inc_lora"} <= set(selection.refusing)
    assert names.isdisjoint(selection.refusing)
    message = "no strategy of adapter can train an adapter that the run puts on the model"
    with pytest.raises(UserError, match=message):
        _selection("adapter").specs()
    with pytest.raises(UserError, match=message):
        epi_bench.compare("adapter", settings={"adapter": {"kind": "lora"}})
