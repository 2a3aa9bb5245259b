"""Optimizers by hand: what a learning rate and a weight decay mean for each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.optimizer import build_optimizer
from epi_bench.training.schedule import set_learning_rate

OPTIMIZERS = ["adamw", "sgd", "adafactor"]


def _optimizer(name, parameter, learning_rate, weight_decay=0.0):
    spec = TrainingSpec(steps=1, optimizer=name, weight_decay=weight_decay)
    return build_optimizer([parameter], spec, learning_rate)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_decoupled(name):
    """Gradients of zero: ten times ``1 - 0.01 * 0.1``, momentum or not; vectors stay."""
    matrix, vector = nn.Parameter(torch.full((4, 4), 2.0)), nn.Parameter(torch.full((4,), 2.0))
    spec = TrainingSpec(steps=1, optimizer=name, weight_decay=0.1)
    optimizer = build_optimizer([matrix, vector], spec, 1e-2)
    for _ in range(10):
        matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
        optimizer.step()
    assert matrix.detach().numpy() == pytest.approx(2 * (1 - 1e-3) ** 10)
    assert torch.equal(vector.detach(), torch.full((4,), 2.0))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group_and_vectors_are_not_decayed(name):
    """Frozen parameters are in none."""
    matrices = [nn.Parameter(torch.ones(2, 3)) for _ in range(2)]
    vectors, frozen = [nn.Parameter(torch.ones(3))], nn.Parameter(torch.ones(2), False)
    spec = TrainingSpec(steps=1, optimizer=name, weight_decay=0.1)
    decayed, plain = build_optimizer([*matrices, frozen, *vectors], spec, 1e-3).param_groups
    decay = "decoupled_weight_decay" if name == "sgd" else "weight_decay"
    assert (decayed["params"], decayed[decay]) == (matrices, 0.1)
    assert (plain["params"], plain[decay]) == (vectors, 0.0)


@pytest.mark.parametrize(("name", "theirs"), [("adamw", "adamw_torch_fused"), ("adafactor",) * 2])
def test_beside_the_optimizers_of_transformers(name, theirs, tmp_path):
    """Its Trainer makes the same class with the same settings; only the groups are ours.

    Its ``sgd`` has no momentum and adds weight decay to the gradient, so it is another optimizer.
    """
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), optim=theirs, learning_rate=1e-3, use_cpu=True)
    cls, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    ours = _optimizer(name, nn.Parameter(torch.ones(2, 2)), 1e-3)
    assert type(ours) is cls
    assert ours.defaults == cls([nn.Parameter(torch.ones(2, 2))], **settings).defaults


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_follows_the_schedule_and_spares_what_is_not_stepped(name):
    matrix = nn.Parameter(torch.full((2, 2), 2.0))
    optimizer = _optimizer(name, matrix, 1.0, weight_decay=0.5)
    optimizer.step()  # no gradient
    assert torch.equal(matrix.detach(), torch.full((2, 2), 2.0))
    set_learning_rate(optimizer, 0.1)
    matrix.grad = torch.zeros_like(matrix)
    optimizer.step()
    assert matrix.detach().numpy() == pytest.approx(1.9)


def test_two_steps_of_sgd_by_hand():
    """2 (1 - 0.05) - 0.1 = 1.8; then 1.8 (1 - 0.05) - 0.1 (0.9 + 1) = 1.52."""
    weight = nn.Parameter(torch.full((1, 1), 2.0))
    optimizer = _optimizer("sgd", weight, 0.1, weight_decay=0.5)
    for expected in (1.8, 1.52):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [0.001, 1.0, 100.0])
def test_a_step_of_adafactor_by_hand(size):
    """Row means of the squared gradient 2.5 and 12.5, column means 5 and 10, their mean 7.5.

    ``g / sqrt(row column / 7.5)``, whatever the size of the weights.
    """
    weight = nn.Parameter(torch.full((2, 2), size, dtype=torch.float64))
    optimizer = _optimizer("adafactor", weight, 1e-3)
    weight.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    optimizer.step()
    moved = (size - weight.detach()) / 1e-3
    assert moved.square().flatten().tolist() == pytest.approx([0.6, 1.2, 1.08, 0.96], rel=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_learning_rate_bounds_a_step_of_adamw_and_adafactor_alike(scale):
    """In the root mean square over a tensor, for weights and gradients of any size."""
    generator = torch.Generator().manual_seed(0)
    for name in ("adamw", "adafactor"):
        weight = nn.Parameter(scale * torch.randn(64, 32, generator=generator))
        optimizer = _optimizer(name, weight, 1e-3)
        for _ in range(5):
            before = weight.detach().clone()
            weight.grad = torch.randn(64, 32, generator=generator) / scale
            optimizer.step()
            step = (weight.detach() - before).square().mean().sqrt().item()
            assert 0.3e-3 < step < 1.05e-3
