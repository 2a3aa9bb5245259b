"""Variants of LoRA, and adapters that are merged after each experience."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks

IDS = torch.arange(2, 12)[None]


def _loop(name, model=None, **options):
    return toy_loop(create_strategy(name, {"rank": 2, **options}), model=model)


def _logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", "pissa"])
def test_a_variant_begins_as_the_model_and_ends_as_it_was_trained(variant):
    with own_numerics():
        base = _logits(toy_model())
        loop = _loop("lora", variant=variant)
        assert torch.allclose(_logits(loop.model), base, atol=1e-5)
        loop.train(toy_tasks()[0])
        trained = _logits(loop.model)
        assert not torch.allclose(trained, base, atol=1e-3)
        assert torch.allclose(_logits(loop.strategy.finalize_model(loop.model)), trained, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank():
    with own_numerics():
        loops = {variant: _loop("lora", rank=4, variant=variant) for variant in ("plain", "rslora")}
    scales = {
        variant: {layer.scaling["default"] for layer in loop.strategy.adapted_layers.values()}
        for variant, loop in loops.items()
    }
    assert scales == {"plain": {32 / 4}, "rslora": {32 / 2}}


def test_variants_are_other_trainings():
    found = []
    for variant in ("plain", "rslora", "dora", "pissa"):
        with own_numerics():
            loop = _loop("lora", variant=variant)
            loop.train(toy_tasks()[0])
            found.append(_logits(loop.model))
    for number, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[number + 1 :])


@pytest.mark.parametrize("name", ["inc_lora", "o_lora", "n_lora"])
def test_merging_after_an_experience_changes_nothing(name):
    with own_numerics():
        loop = _loop(name)
        merge, seen = loop.strategy.merge_and_restart, []

        def look(purpose):
            seen.append(_logits(loop.model))
            merge(purpose)
            seen.append(_logits(loop.model))

        loop.strategy.merge_and_restart = look
        for experience in toy_tasks():
            loop.train(experience)
    assert len(seen) == 4
    for before, after in (seen[:2], seen[2:]):
        assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)
    for layer in loop.strategy.adapted_layers.values():
        assert not layer.lora_B["default"].weight.any()
        assert layer.lora_A["default"].weight.any()


def test_the_first_experience_of_inc_lora_is_that_of_lora():
    found = []
    for name in ("inc_lora", "lora"):
        with own_numerics():
            loop = _loop(name, alpha=4.0)
            loop.train(toy_tasks()[0])
            found.append(_logits(loop.model))
    assert torch.allclose(*found, atol=1e-5)


def test_new_adapters_do_not_depend_on_what_else_was_drawn():
    found = []
    for draws in (0, 5):
        with own_numerics():
            loop = _loop("inc_lora")
            loop.train(toy_tasks()[0])
            torch.rand(draws)
            loop.strategy.merge_and_restart("x")
            found.append(
                [layer.lora_A["default"].weight for layer in loop.strategy.adapted_layers.values()]
            )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _set(layer, rows):
    with torch.no_grad():
        layer.lora_A["default"].weight.zero_()
        layer.lora_A["default"].weight[: len(rows), : len(rows[0])] = torch.tensor(rows)


@pytest.mark.parametrize(("norm", "expected"), [("absolute", 0.5 * 1.5), ("squares", 0.5 * 1.25)])
def test_o_lora_by_hand(norm, expected):
    with own_numerics():
        loop = _loop("o_lora", target_modules="q_proj", norm=norm)
        assert loop.strategy.penalty(loop.model) is None
        first, second = loop.strategy.adapted_layers.values()
        _set(first, [[1.0, 0.0], [0.0, 1.0]])
        _set(second, [[0.0, 0.0]])
        loop.strategy.end_experience(toy_tasks()[0])
        _set(first, [[0.5, 1.0]])  # with the rows before: 0.5 and 1
        _set(second, [[7.0, 7.0]])
        assert loop.strategy.penalty(loop.model).item() == pytest.approx(expected)


def test_o_lora_keeps_out_of_used_directions():
    overlaps = []
    for strength in (0.0, 5.0):
        with own_numerics():
            loop = _loop("o_lora", orthogonality=strength)
            for experience in toy_tasks(30):
                last = {
                    name: layer.lora_A["default"].weight
                    for name, layer in loop.strategy.adapted_layers.items()
                }
                past = dict(loop.strategy._past)
                merge = loop.strategy.merge_and_restart
                loop.strategy.merge_and_restart = lambda purpose: None
                loop.train(experience)
                loop.strategy.merge_and_restart = merge
                if past:
                    overlaps.append(sum(float((past[n] @ last[n].T).abs().sum()) for n in past))
                merge("x")
    assert overlaps[1] < 0.5 * overlaps[0]


def test_n_lora_by_hand():
    with own_numerics():
        loop = _loop("n_lora", target_modules="q_proj", sparsity=0.5, alpha=2.0)
        for layer in loop.strategy.adapted_layers.values():
            _set(layer, [[1.0, -2.0]])
            with torch.no_grad():
                layer.lora_B["default"].weight[0, 0] = 3.0
        assert loop.strategy.penalty(loop.model).item() == pytest.approx(0.5 * 2 * (3 + 6))


def test_o_lora_refuses_embeddings():
    with pytest.raises(UserError, match="reads no input directions"):
        _loop("o_lora", model=toy_model(tied=False), target_modules="embed_tokens")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inc_lora", {"rank": 0}),
        ("o_lora", {"orthogonality": -1.0}),
        ("n_lora", {"sparsity": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)
