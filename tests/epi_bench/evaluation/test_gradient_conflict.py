"""Cosines between the tasks' gradients."""

from __future__ import annotations

import math
import random

import pytest
import torch

from epi_bench.evaluation.gradient_conflict import ConflictProbe, _cosine
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import mean_loss
from epi_bench.task.task import TASKS


def test_gradient_conflict_of_a_task_with_itself_is_one(model, encoder, toy_tasks):
    encode = encoder.encode
    first = [encode(e.messages) for e in TASKS.get("toy_first")().examples("train")[:6]]
    second = [encode(e.messages) for e in TASKS.get("toy_second")().examples("train")[:6]]
    probe = ConflictProbe(
        {"a": first, "again": first, "b": second}, 0, 6, torch.Generator().manual_seed(0)
    )
    cosines = probe.measure(model).cosines
    assert [cosines[i][i] for i in range(3)] == [1.0, 1.0, 1.0]
    assert cosines[0][1] == 1.0
    assert cosines[0][2] == cosines[2][0]
    assert -1 <= cosines[0][2] < 0.999
    assert all(p.grad is None for p in model.parameters())


def unequal_examples(seed, count=12):
    """Of very different lengths, with one to many supervised tokens."""
    draw = random.Random(seed)
    examples = []
    for _ in range(count):
        length = draw.choice([6, 12, 40])
        supervised = draw.choice([1, 2, length - 3])
        examples.append(
            EncodedExample(
                tuple(draw.randrange(250) for _ in range(length)),
                tuple(i >= length - supervised for i in range(length)),
            )
        )
    return examples


def test_gradient_conflict_does_not_depend_on_how_many_examples_go_through_at_once(model):
    pools = {"a": unequal_examples(1), "b": unequal_examples(2)}
    cosines = [
        ConflictProbe(pools, 0, size, torch.Generator()).measure(model).cosines[0][1]
        for size in (12, 5, 1)
    ]
    assert cosines == pytest.approx([cosines[0]] * 3, abs=1e-6)


def test_gradient_cosines_of_many_coordinates_stay_within_one():
    ones = torch.full((2_000_000,), 1.7, dtype=torch.float64)
    assert _cosine(ones, ones) == 1.0
    assert 1 - 1e-9 < _cosine(ones, ones * 3) <= 1
    assert -1 <= _cosine(ones, ones * -3) < 1e-9 - 1
    assert _cosine(ones, torch.zeros_like(ones)) is None
    assert _cosine(ones, torch.full_like(ones, math.nan)) is None
    assert _cosine(ones, torch.full_like(ones, math.inf)) is None


def test_gradient_cosine_against_plain_backward(model, encoder, toy_tasks):
    from epi_bench.model.batching import collate

    gradients, pools = [], {}
    for name in ("toy_first", "toy_second"):
        pools[name] = [encoder.encode(e.messages) for e in TASKS.get(name)().examples("train")[:5]]
        model.zero_grad()
        mean_loss(model, collate(pools[name], 0)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad(set_to_none=True)
    expected = torch.cosine_similarity(*gradients, dim=0).item()
    probe = ConflictProbe(pools, 0, 5, torch.Generator().manual_seed(0))
    assert probe.measure(model).cosines[0][1] == pytest.approx(expected, abs=1e-5)
