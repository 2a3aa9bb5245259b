"""What a strategy keeps and does not return is found, and nothing else is."""

from __future__ import annotations

import copy
import random
import weakref
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from epi_bench import Strategy
from epi_bench.strategy.attribute_digests import attribute_digests, unreturned_attributes


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def _keeping(**attributes):
    strategy = Strategy()
    for name, value in attributes.items():
        setattr(strategy, name, value)
    return strategy


@dataclass
class Memory:
    seen: int = 0
    kept: list[torch.Tensor] = field(default_factory=list)


class Slotted:
    __slots__ = ("count",)

    def __init__(self, count):
        self.count = count


def _generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("kept", "forgotten"),
    [
        (3, 4),
        (3, 3.0),  # f"{count}" names another random draw
        ("base", "previous"),
        (None, {}),
        ([1, 2], [1, 2, 3]),
        ([[1.0], "a"], [[2.0], "a"]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # sums over it are rounded in its order
        ({1, 2}, {1}),
        (Counter("aab"), Counter("ab")),
        (deque([1, 2]), deque([2, 1])),
        (torch.zeros(3), torch.tensor([0.0, -0.0, 0.0])),
        (torch.zeros(3), torch.zeros(1, 3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
        ({"w": torch.ones(2)}, {}),
        (np.arange(3), np.arange(1, 4)),
        (random.Random(1), random.Random(2)),
        (_generator(1), _generator(2)),
        (np.random.default_rng(1), np.random.default_rng(2)),
        (Memory(1), Memory(2)),
        ([Memory(1)], [Memory(2)]),
        (Slotted(1), Slotted(2)),
        (SimpleNamespace(seen=1), SimpleNamespace(seen=2)),
        (Decimal("1.5"), Decimal("1.6")),
        (nn.Linear(2, 2), nn.Linear(2, 2)),  # a teacher
        (iter([1, 2]), iter([1, 2])),  # where it stands cannot be saved
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_differs_is_named(kept, forgotten):
    model = _model()
    saved = attribute_digests(_keeping(same=1, value=kept), model)
    found = unreturned_attributes(saved, _keeping(same=1, value=forgotten), model)
    assert len(found) == 1
    assert found[0] in {"value", "value.seen", "value.count"}


@pytest.mark.parametrize(
    "value",
    [
        [1, (2, "a"), {"b": {3.5, 4}}],
        {"w": torch.tensor([float("nan"), 1.0]), "empty": torch.zeros(0)},
        torch.tensor([1 + 2j]),
        torch.eye(3).to_sparse(),
        Memory(2, [torch.arange(4)]),
        random.Random(3),
        nn.Linear(2, 2),
        Slotted([1]),
        torch.zeros(2, device="meta"),
        np.array([3, "a"], dtype=object),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_is_the_same(value):
    model = _model()
    saved = attribute_digests(_keeping(value=value), model)
    assert unreturned_attributes(saved, _keeping(value=copy.deepcopy(value)), model) == []
    assert saved == attribute_digests(_keeping(value=copy.deepcopy(value)), model)


def test_lists_and_tuples_are_one_kind():
    saved = attribute_digests(_keeping(value=(1, torch.ones(1))), _model())
    assert unreturned_attributes(saved, _keeping(value=[1, torch.ones(1)]), _model()) == []


def test_a_change_anywhere_in_a_large_tensor_is_found():
    """Large tensors are summed in blocks of 4,096 before they are hashed."""
    model, values = _model(), torch.arange(100_003, dtype=torch.float32)
    saved = attribute_digests(_keeping(value=values), model)
    for position in (0, 4_097, 65_536, 99_999, 100_002):
        other = values.clone()
        other[position] += 1
        assert unreturned_attributes(saved, _keeping(value=other), model) == ["value"]
    swapped = values.clone()
    swapped[:4096], swapped[4096:8192] = values[4096:8192], values[:4096]
    assert unreturned_attributes(saved, _keeping(value=swapped), model) == ["value"]
    assert unreturned_attributes(saved, _keeping(value=values.clone()), model) == []


def test_the_model_is_not_part_of_the_strategy():
    """Its weights are in the checkpoint already; which of them is referred to counts."""
    model, other = _model(), _model()
    with torch.no_grad():
        other[0].weight.add_(1)

    def keeping(model, parameter):
        return _keeping(
            model=model,
            layer=model[0],
            parameters=dict(model.named_parameters()),
            one=parameter,
            wrapped=nn.Sequential(model),
        )

    saved = attribute_digests(keeping(model, model[0].weight), model)
    assert unreturned_attributes(saved, keeping(other, other[0].weight), other) == []
    assert unreturned_attributes(saved, keeping(other, other[1].weight), other) == ["one"]


def test_what_cannot_be_saved_and_needs_not_be_is_passed_over():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = _keeping(
        optimizer=optimizer, call=len, own=lambda: 3, kind=Memory, reference=weakref.ref(model)
    )
    saved = attribute_digests(strategy, model)
    names = ("optimizer", "call", "own", "kind", "reference")
    assert set(saved) == set(names)
    assert unreturned_attributes(saved, _keeping(**dict.fromkeys(names)), model) == []


def test_objects_are_named_by_the_path_of_their_attributes():
    model = _model()
    saved = attribute_digests(_keeping(memory=Memory(1, [torch.ones(2)])), model)
    assert set(saved) == {"memory", "memory.seen", "memory.kept"}
    later = _keeping(memory=Memory(2, [torch.ones(2)]))
    assert unreturned_attributes(saved, later, model) == ["memory.seen"]
    assert unreturned_attributes(saved, _keeping(memory=None), model) == ["memory"]
    assert unreturned_attributes(saved, _keeping(), model) == ["memory"]
    assert unreturned_attributes({}, later, model) == ["memory"]


def test_objects_that_hold_each_other_end():
    model, first = _model(), Memory()
    first.kept = [first]
    second = Memory(0, [Memory(0, [first])])
    first.other, second.other = second, first
    assert set(attribute_digests(_keeping(first=first), model)) >= {"first", "first.other.kept"}


class Computing(Strategy):
    not_in_state: ClassVar = ("_cache",)

    def __init__(self, factor=2):
        self.factor = factor
        self._cache = {}

    @cached_property
    def table(self):
        return [self.factor * n for n in range(3)]


def test_what_is_computed_when_it_is_needed_is_no_state():
    model = _model()
    used, fresh = Computing(), Computing()
    used._cache["a"] = 1
    assert unreturned_attributes(attribute_digests(fresh, model), used, model) == []
    assert used.table == [0, 2, 4]
    saved = attribute_digests(used, model)
    assert "_cache" not in saved
    assert unreturned_attributes(saved, fresh, model) == []  # it gives the same
    assert unreturned_attributes(attribute_digests(Computing(), model), used, model) == []
    used.table.append(9)  # and what is kept in it is state
    saved = attribute_digests(used, model)
    assert unreturned_attributes(saved, Computing(), model) == ["table"]
