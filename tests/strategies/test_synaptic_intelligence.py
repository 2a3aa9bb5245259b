"""Synaptic intelligence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.strategy.strategy import create_strategy


def _weight(value=1.0):
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def _step(strategy, model, gradient, learning_rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    model.weight.grad = torch.full_like(model.weight, gradient)
    step = SimpleNamespace(model=model, optimizer=optimizer)
    strategy.gradients_ready(step)
    model.weight.grad *= 0.5  # clipping changes the step, not what is measured
    model.weight.grad *= 2
    optimizer.step()
    strategy.parameters_updated(step)


@pytest.mark.parametrize("gradient", [2.0, -7.0])
def test_one_step_of_plain_descent_gives_one_over_the_learning_rate(gradient):
    model, strategy = _weight(), create_strategy("si", {"damping": 1e-12})
    strategy.context = SimpleNamespace(model=model)
    strategy.begin_experience(None)
    _step(strategy, model, gradient, 0.1)
    assert strategy._path["weight"].item() == pytest.approx(0.1 * gradient**2)
    strategy.end_experience(None)
    assert strategy._importance["weight"].item() == pytest.approx(10.0)


def test_relative_damping_and_penalty_by_hand():
    model, strategy = _weight(), create_strategy("si", {"damping": 1.0, "strength": 0.5})
    strategy.context = SimpleNamespace(model=model)
    strategy.begin_experience(None)
    assert strategy.penalty(model) is None
    _step(strategy, model, 2.0, 0.1)  # path 0.4, way 0.2
    strategy.end_experience(None)
    assert strategy._importance["weight"].item() == pytest.approx(0.4 / (0.04 + 0.04))
    with torch.no_grad():
        model.weight += 3
    assert strategy.penalty(model).item() == pytest.approx(0.5 * 5.0 * 9.0)


def test_the_penalty_is_no_part_of_the_path():
    model, strategy = _weight(), create_strategy("si", {"damping": 1.0, "strength": 0.5})
    strategy.context = SimpleNamespace(model=model)
    strategy.begin_experience(None)
    _step(strategy, model, 2.0, 0.1)
    strategy.end_experience(None)
    strategy.begin_experience(None)
    _step(strategy, model, 1.0, 0.1)  # at the anchor: the penalty has no gradient
    away = model.weight.item() - strategy._anchor["weight"].item()
    assert away == pytest.approx(-0.1)
    pull = 2 * 0.5 * 5.0 * away
    before = strategy._path["weight"].item()
    _step(strategy, model, 1.0 + pull, 0.1)  # what backward of loss + penalty gives
    moved = -0.1 * (1.0 + pull)
    assert strategy._path["weight"].item() - before == pytest.approx(-1.0 * moved)
