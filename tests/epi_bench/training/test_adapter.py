"""An adapter that the run puts on the model, trained by any strategy that brings none."""

from __future__ import annotations

import copy

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.plugins.options import options_of
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import AdapterSpec
from epi_bench.strategy.adapted_weights import adapted_layers, updated_weights
from epi_bench.strategy.low_rank import LowRankStrategy
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import STEPS, own_numerics, toy_loop, toy_model, toy_tasks
from epi_bench.training.adapter import make_adapter

ADAPTER = {"kind": "lora", "rank": 2, "alpha": 4.0}

BRING_THEIR_OWN = {"inc_lora", "increlora", "lora", "n_lora", "o_lora"}

REFUSE = BRING_THEIR_OWN | {"osf"}

COMPOSE = [
    name
    for name in STRATEGIES.names()
    if STRATEGIES.is_builtin(name) and not create_strategy(name, {}).refuses_adapter
]

SOON = {
    "warmup": 1, "interval": 2, "fisher_samples": 2, "samples": 2, "check_every": 1, "per_task": 8,
    "least_yield": 0.0, "candidates": 1,
}  # fmt: skip
"""Options with which a strategy acts within six steps, and is quick."""

RESUMED = [
    "epi",
    "ewc",
    "ema",
    "freeze_bottom",
    "hft",
    "kl_to_base",
    "migu",
    "si",
    "ties",
    "wise_ft",
]
"""Strategies whose state is of the adapter in different ways."""


def _made(name, options=None):
    known = options_of(STRATEGIES.get(name))
    chosen = {key: value for key, value in SOON.items() if key in known}
    return create_strategy(name, chosen if options is None else options)


def _loop(name, options=None, **settings):
    return toy_loop(_made(name, options), adapter=ADAPTER, **settings)


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _trained(name, options=None, **settings):
    with own_numerics():
        loop = _loop(name, options, **settings)
        for experience in toy_tasks():
            loop.train(experience)
        return loop, _weights(loop.finalize_model())


def test_every_mask_penalty_average_and_replay_composes():
    refused = {n for n in STRATEGIES.names() if STRATEGIES.is_builtin(n)} - set(COMPOSE)
    assert refused >= REFUSE
    for name in refused - {"osf"}:
        cls = STRATEGIES.get(name)
        assert issubclass(cls, LowRankStrategy) or "all tasks" in cls.needs, name


def test_plain_fine_tuning_of_an_adapter_is_lora():
    _, ours = _trained("full_sft")
    with own_numerics():
        loop = toy_loop(create_strategy("lora", {"rank": 2, "alpha": 4.0}))
        for experience in toy_tasks():
            loop.train(experience)
        theirs = _weights(loop.finalize_model())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("name", COMPOSE)
def test_a_strategy_trains_the_adapter_and_nothing_else(name):
    base = dict(toy_model().named_parameters())
    with own_numerics():
        loop = _loop(name)
        trained = {n for n, p in loop.model.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        for experience in toy_tasks():
            loop.train(experience)
        for parameter_name, parameter in loop.model.named_parameters():
            if "lora_" not in parameter_name:
                key = parameter_name.removeprefix("base_model.model.").replace(".base_layer", "")
                assert torch.equal(parameter, base[key]), parameter_name
                assert not parameter.requires_grad
        whole = updated_weights(loop.model)
        finished = _weights(loop.finalize_model())
        loop.strategy.diagnostics()  # a run asks for both once the model is merged
        assert loop.strategy.state_bytes() >= 0
    assert finished.keys() == base.keys()
    assert any(not torch.equal(finished[key], base[key]) for key in base)
    if name in ("full_sft", "ewc", "epi"):
        for key, merged in whole.items():
            own = key.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.allclose(finished[own], merged, atol=1e-6)


@pytest.mark.parametrize("name", RESUMED)
def test_it_goes_on_exactly_in_the_middle_of_an_experience(name):
    points = (2 * STEPS - 1,)
    assert resuming_problem(lambda: _made(name), points=points, adapter=ADAPTER) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_scored_as_it_would_be_merged(dtype):
    ids = torch.arange(2, 12)[None]
    with own_numerics():
        loop = _loop("wise_ft", {"alpha": 0.5}, model=toy_model(dtype=dtype))
        for experience in toy_tasks():
            loop.train(experience)
    with torch.no_grad():
        before = _weights(loop.model)
        with loop.precision.as_saved(loop.model), loop.as_finished() as model:
            scored = model(input_ids=ids).logits
        assert all(torch.equal(before[name], p) for name, p in loop.model.named_parameters())
        merged = loop.finalize_model()
        with loop.precision.as_saved(merged):
            assert torch.allclose(merged(input_ids=ids).logits, scored, atol=1e-4, rtol=1e-4)


def test_wise_ft_scales_the_update_itself():
    """Averages of A and of B would have a product of their own."""
    base = dict(toy_model().named_parameters())
    _, half = _trained("wise_ft", {"alpha": 0.25})
    _, whole = _trained("wise_ft", {"alpha": 1.0})
    for name, start in base.items():
        expected = start + 0.25 * (whole[name] - start)
        assert torch.allclose(half[name], expected, atol=1e-6), name


def test_restore_most_changed_gives_merged_weights_back():
    base = dict(toy_model().named_parameters())
    _, plain = _trained("full_sft")
    _, kept = _trained("restore_most_changed", {"share": 0.25, "measure": "absolute"})
    names = [name for name in base if "layers" in name and base[name].dim() == 2]
    changes = torch.cat([(plain[n] - base[n]).abs().flatten() for n in names])
    given_back = torch.cat([(kept[n] == base[n]).flatten() for n in names])
    count = round(0.25 * len(changes))
    assert int((given_back & (changes > 0)).sum()) == count
    smallest = changes[given_back & (changes > 0)].min()
    assert bool((changes[~given_back] <= smallest + 1e-8).all())
    others = torch.cat([(kept[n] - plain[n]).abs().flatten() for n in names])[~given_back]
    assert float(others.max()) < 1e-6


def test_the_base_as_a_teacher_is_the_model_without_its_adapter():
    found = []
    for copied in (False, True):
        with own_numerics():
            loop = _loop("kl_to_base", {"strength": 1.0})
            assert loop.strategy._teacher is None
            if copied:
                teacher = copy.deepcopy(loop.model).requires_grad_(False).eval()
                loop.strategy._teacher = teacher
            for experience in toy_tasks():
                loop.train(experience)
            found.append((_weights(loop.model), loop.strategy.diagnostics()["divergence"]))
    (ours, own), (theirs, other) = found
    assert own == pytest.approx(other)
    assert own > 0
    assert all(torch.allclose(t, theirs[n], atol=1e-6) for n, t in ours.items() if n in theirs)


def test_a_base_under_a_fresh_adapter_says_nothing_about_a():
    with own_numerics():
        loop = _loop("ewc", {"protect_base": "general_text", "fisher_samples": 4})
        loop.strategy.begin_training()
        [(measured, anchor)] = loop.strategy._terms
    fisher = {name: parts[0] for name, parts in measured.parts.items()}
    assert all(not t.any() for name, t in fisher.items() if "lora_A" in name)
    assert all(t.any() for name, t in fisher.items() if "lora_B" in name)
    assert all(not t.any() for name, t in anchor.items() if "lora_B" in name)


@pytest.mark.parametrize("name", ["hft", "freeze_bottom"])
def test_what_is_held_still_is_a_share_of_the_adapter(name):
    with own_numerics():
        loop = _loop(name, {"share": 0.5})
        loop.train(toy_tasks()[0])
        trainable = [p for n, p in loop.model.named_parameters() if "lora_" in n]
        frozen = sum(p.numel() for p in trainable if not p.requires_grad)
        expected = frozen / sum(p.numel() for p in trainable)
        assert 0 < expected < 1
        assert loop.strategy.diagnostics()["achieved_ratio"] == expected


def test_tied_embeddings_are_refused_by_the_setting():
    adapter = make_adapter(AdapterSpec(kind="lora", target_modules="q_proj,embed_tokens"))
    with pytest.raises(UserError, match=r"adapter: target_modules=.* \(tied weights\)") as told:
        adapter.check(toy_model())
    assert told.value.settings == ("adapter.target_modules",)
    adapter.check(toy_model(tied=False))


def test_merging_into_tied_embeddings_would_change_the_head_too():
    """What the refusal is about: the merged model is another one than the trained one."""
    from peft import LoraConfig, get_peft_model

    ids = torch.arange(2, 12)[None]
    model = get_peft_model(toy_model(), LoraConfig(r=2, target_modules=["embed_tokens"]))
    for layer in adapted_layers(model).values():
        layer.lora_embedding_A["default"].data.fill_(0.3)
        layer.lora_embedding_B["default"].data.fill_(0.3)
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        merged = model.merge_and_unload()(input_ids=ids).logits
    assert float((merged - trained).abs().max()) > 0.1


@pytest.mark.parametrize("setting", ["rank", "alpha", "target_modules"])
def test_a_size_without_an_adapter_is_refused(setting):
    given = {"rank": 4, "alpha": 8.0, "target_modules": "q_proj"}
    with pytest.raises(UserError, match=f"adapter.{setting} has no effect without an adapter"):
        complete_spec({"adapter": {setting: given[setting]}})
    complete_spec({"adapter": {"kind": "lora", setting: given[setting]}})
