"""Learning without forgetting is the divergence from the model before, at temperature 2."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing.checks import _Subject
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks


def test_it_is_kl_to_base_with_the_previous_model_as_teacher():
    lwf = _Subject(STRATEGIES.get("lwf"), {"strength": 3.0}).trained()
    options = {"strength": 3.0, "teacher": "previous", "temperature": 2.0}
    same = _Subject(STRATEGIES.get("kl_to_base"), options).trained()
    assert all(torch.equal(tensor, same[name]) for name, tensor in lwf.items())


def test_a_strength_of_zero_is_full_fine_tuning():
    none = _Subject(STRATEGIES.get("lwf"), {"strength": 0.0}).trained()
    plain = _Subject(STRATEGIES.get("full_sft"), {}).trained()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in none.items())


def test_the_teacher_is_the_model_that_the_experience_found():
    with own_numerics():
        lwf = create_strategy("lwf", {})
        loop = toy_loop(lwf)
        first, second = toy_tasks()
        loop.train(first)
        found = [p.detach().clone() for p in loop.model.parameters()]
        loop.train(second)
    teacher = list(lwf._teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, teacher, strict=True))
    assert not torch.equal(found[0], next(iter(loop.model.parameters())))


def test_values_out_of_range_are_refused():
    for options in ({"strength": -1.0}, {"temperature": 0.0}):
        with pytest.raises(UserError, match="lwf: "):
            create_strategy("lwf", options)
