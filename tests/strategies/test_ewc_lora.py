"""EWC in the space of the full weights, on merged adapters."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

WIDTH = 16


def _trained(name, steps=3, **options):
    with own_numerics():
        strategy = create_strategy(name, {"rank": 2, **options})
        loop = toy_loop(strategy)
        for experience in toy_tasks(steps):
            loop.train(experience)
        return dict(strategy.finalize_model(loop.model).named_parameters())


@pytest.mark.parametrize("fisher", ["diagonal", "factored"])
def test_an_update_of_full_rank_is_held_as_ewc_holds_the_weights(fisher):
    """B = I and alpha = rank, so that A is the update: the penalty is EWC's on A."""
    with own_numerics():
        options = {
            "rank": WIDTH, "alpha": float(WIDTH), "target_modules": "q_proj", "strength": 10.0,
            "fisher": fisher, "labels": "data", "fisher_samples": 32,
        }  # fmt: skip
        lora = create_strategy("ewc_lora", options)
        loop = toy_loop(lora)
        assert lora.penalty(loop.model) is None
        first = toy_tasks()[0]
        loop.train(first)

        shared = {"strength": 10.0, "fisher_samples": 32, "fisher": fisher}
        ewc = create_strategy("ewc", shared)
        plain = toy_loop(ewc)
        weights = dict(plain.model.named_parameters())
        merged = {
            path: layer.get_base_layer().weight for path, layer in lora.adapted_layers.items()
        }
        with torch.no_grad():
            for path, weight in merged.items():
                name = path.removeprefix("base_model.model.") + ".weight"
                weights[name].copy_(weight)
        ewc.end_experience(first)
        generator = torch.Generator().manual_seed(0)
        expected = 0.0
        for path, layer in lora.adapted_layers.items():
            name = path.removeprefix("base_model.model.") + ".weight"
            update = torch.randn(WIDTH, WIDTH, generator=generator)
            with torch.no_grad():
                layer.lora_A["default"].weight.copy_(update)
                layer.lora_B["default"].weight.copy_(torch.eye(WIDTH))
                weights[name].add_(update)
        expected = ewc.penalty(plain.model)
        found = lora.penalty(loop.model)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected.item() > 0
    layers = list(lora.adapted_layers.items())
    gradients = torch.autograd.grad(found, [layer.lora_A["default"].weight for _, layer in layers])
    names = [path.removeprefix("base_model.model.") + ".weight" for path, _ in layers]
    theirs = torch.autograd.grad(expected, [weights[name] for name in names])
    for gradient, their in zip(gradients, theirs, strict=True):
        assert torch.allclose(gradient, their, rtol=1e-3, atol=1e-6)


def test_a_strength_of_zero_is_inc_lora():
    found, plain = _trained("ewc_lora", strength=0.0), _trained("inc_lora")
    assert found.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_a_stronger_penalty_moves_less_in_the_second_task():
    ways = []
    with own_numerics():
        loop = toy_loop(create_strategy("inc_lora", {"rank": 2}))
        loop.train(toy_tasks(15)[0])
        start = dict(loop.strategy.finalize_model(loop.model).named_parameters())
    for strength in (0.0, 1e8):
        end = _trained("ewc_lora", 15, strength=strength, fisher_samples=8)
        ways.append(sum(float((end[n] - start[n]).square().sum()) for n in start))
    assert ways[1] < 0.5 * ways[0]


def test_the_base_weights_stay_frozen():
    with own_numerics():
        strategy = create_strategy("ewc_lora", {"rank": 2, "fisher_samples": 2})
        loop = toy_loop(strategy)
        before = {n for n, p in loop.model.named_parameters() if p.requires_grad}
        loop.train(toy_tasks()[0])
    assert before == {n for n, p in loop.model.named_parameters() if p.requires_grad}
    assert all("lora" in name for name in before)


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"decay": 2.0}, {"fisher_samples": 0}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"ewc_lora: {next(iter(options))}="):
        create_strategy("ewc_lora", options)
