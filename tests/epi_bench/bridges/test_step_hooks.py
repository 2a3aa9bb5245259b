"""The actions around an optimizer's step: each once, in their order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench.bridges.parameters import stepped_parameters, trained_parameters
from epi_bench.bridges.step_hooks import StepActions, StepHooks, refuse_second_hooks
from epi_bench.errors import UserError

CALLS = ("prepare", "observe", "updated", "skipped")


@pytest.fixture
def model():
    return nn.Linear(2, 1)


def hooked(optimizer):
    seen = []
    actions = StepActions(*(lambda name=name: seen.append(name) for name in CALLS))
    return StepHooks(optimizer, optimizer, actions), seen


def step(model, optimizer, closure=None):
    model.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step(closure)


def test_each_action_comes_once_a_step(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hooks, seen = hooked(optimizer)
    step(model, optimizer)
    assert seen == ["prepare", "observe", "updated"]
    hooks.remove()
    step(model, optimizer)
    assert len(seen) == 3


def test_the_step_of_a_parent_class_is_not_another_one(model):
    class Louder(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)

    optimizer = Louder(model.parameters(), 0.1)
    _, seen = hooked(optimizer)
    step(model, optimizer)
    assert seen == ["prepare", "observe", "updated"]


def test_a_closure_is_observed_where_its_gradients_are_made(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    _, seen = hooked(optimizer)

    def closure():
        model.zero_grad()
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        seen.append("closure")
        return loss

    step(model, optimizer, closure)
    assert seen == ["prepare", "closure", "observe", "updated"]


def test_a_step_that_has_raised_does_not_hide_the_next(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    _, seen = hooked(optimizer)

    def closure():
        raise ValueError

    with pytest.raises(ValueError):
        optimizer.step(closure)
    step(model, optimizer)
    assert seen == ["prepare", "prepare", "observe", "updated"]


def test_an_optimizer_has_such_hooks_once(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refuse_second_hooks(optimizer)
    hooks, _ = hooked(optimizer)
    with pytest.raises(UserError, match="protected already"):
        refuse_second_hooks(optimizer)
    hooks.remove()
    refuse_second_hooks(optimizer)


def test_parameters_are_those_that_are_stepped_and_not_frozen(model):
    model.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert [id(p) for p in stepped_parameters(optimizer)] == [id(model.weight)]
    assert list(trained_parameters(optimizer, model)) == ["weight"]
    with pytest.raises(UserError, match="trains none of the model's parameters"):
        trained_parameters(optimizer, nn.Linear(2, 1))
