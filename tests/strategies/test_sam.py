"""Sharpness-aware minimization: the second gradient of a step."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench import Strategy, TrainingFailedError, UserError
from epi_bench.model.batching import collate
from epi_bench.model.losses import mean_loss
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.perturbation import perturbed_weights
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import BATCH, own_numerics, toy_loop, toy_model, toy_tasks


class Once(Strategy):
    """Computes the gradients of each step again, at the same weights."""

    def __init__(self):
        self.pairs = []

    def gradients_ready(self, step):
        parameters = [p for p in step.model.parameters() if p.grad is not None]
        before = [p.grad.clone() for p in parameters]
        loss = step.recompute_gradients()
        assert torch.equal(loss, step.loss)
        self.pairs += zip(before, [p.grad.clone() for p in parameters], strict=True)


def test_sam_by_hand():
    """Of x^2 / 2 at 1 with rho 0.1 the gradient is taken at 1.1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)

    def compute():
        model.weight.grad = model.weight.detach().clone()

    strategy = create_strategy("sam", {"rho": 0.1})
    strategy.context = SimpleNamespace(generator=lambda purpose: random.Random(0))
    compute()
    strategy.gradients_ready(SimpleNamespace(model=model, number=1, recompute_gradients=compute))
    assert model.weight.grad.item() == pytest.approx(1.1)
    assert model.weight.item() == 1.0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_computed_again_is_the_same_with_dropout(accumulation):
    model = toy_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    strategy = Once()
    training = {"batch_size": BATCH // accumulation, "accumulation": accumulation}
    with own_numerics():
        loop = toy_loop(strategy, model=model, training=training)
        loop.train(toy_tasks()[0])
        first = [p.detach().clone() for p in model.parameters()]
    assert strategy.pairs
    for before, after in strategy.pairs:
        assert torch.equal(before, after)
    assert loop.cost.extra_tokens == loop.cost.tokens
    with own_numerics():  # and it draws no more random numbers than a plain training
        model = toy_model()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.5
        toy_loop(Strategy(), model=model, training=training).train(toy_tasks()[0])
    for one, other in zip(first, model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_is_that_of_the_formula():
    """SGD from theta with the gradient at theta + rho g / |g|, computed here by torch alone."""
    rho, rate = 0.5, 0.1
    experience = toy_tasks(1)[0]
    whole = list(experience.examples)
    training = {
        "optimizer": "sgd", "learning_rate": rate, "max_gradient_norm": 0.0, "warmup_share": 0.0,
        "batch_size": len(whole), "weight_decay": 0.0,
    }  # fmt: skip
    with own_numerics():
        loop = toy_loop(create_strategy("sam", {"rho": rho}), training=training)
        loop.train(experience)
        model = toy_model()
        batch = collate(whole, 0)
        parameters = list(model.parameters())
        start = [p.detach().clone() for p in parameters]
        gradients = torch.autograd.grad(mean_loss(model, batch), parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter += rho * gradient / norm
        nearby = torch.autograd.grad(mean_loss(model, batch), parameters)
    for trained, before, gradient in zip(loop.model.parameters(), start, nearby, strict=True):
        assert torch.allclose(trained, before - rate * gradient, rtol=0, atol=1e-6)


def test_it_is_full_fine_tuning_at_rho_0():
    weights = []
    for name, options in (("sam", {"rho": 0.0}), ("full_sft", {}), ("sam", {})):
        with own_numerics():
            loop = toy_loop(create_strategy(name, options))
            loop.train(toy_tasks()[0])
        weights.append(torch.cat([p.detach().flatten() for p in loop.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[2], weights[1])
    spec = TrainingSpec(steps=3)
    assert "full fine-tuning" in create_strategy("sam", {"rho": 0.0}).check_run(spec, [3])[0]
    assert not create_strategy("sam", {}).check_run(spec, [3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_bit_for_bit(dtype):
    weight = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype))
    before = weight.detach().clone()
    direction = torch.ones_like(weight)
    with perturbed_weights({"w": weight}, {"w": direction}, 1e-3, random.Random(0)):
        moved = (weight.double() - before.double()).mean().item()
    assert moved == pytest.approx(1e-3, rel=0.2)  # less than bfloat16 tells apart, on average right
    assert torch.equal(weight, before)


def test_a_distance_that_is_too_large_is_one_clear_error():
    with own_numerics(), pytest.raises(TrainingFailedError, match="second gradients of step 1"):
        toy_loop(create_strategy("sam", {"rho": 1e30})).train(toy_tasks()[0])


@pytest.mark.parametrize("rho", [-0.1, float("inf"), float("nan")])
def test_options_out_of_range_are_refused(rho):
    with pytest.raises(UserError, match="sam: rho="):
        create_strategy("sam", {"rho": rho})
