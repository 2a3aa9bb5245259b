"""What streams refuse: amounts that no training ends with, and weights that no mixing ends with."""

from __future__ import annotations

import math
import random

import pytest

from epi_bench.errors import UserError
from epi_bench.spec.streams import (
    LARGEST_AMOUNT,
    MOST_REPEATS,
    STREAMS,
    ExperiencePlan,
    build_stream,
    mix_examples,
)

pytestmark = pytest.mark.usefixtures("forgotten_plugins")

AMOUNTS = [0, -1, 0.0, math.nan, math.inf, 10**400, 1e300, 2 * LARGEST_AMOUNT, True, "1", None]


@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda value: str(value)[:8])
def test_a_budget_or_weight_that_cannot_be_trained_is_refused(amount):
    def budget(tasks):
        return [ExperiencePlan("all", tuple(tasks), budget=amount)]

    def weight(tasks):
        return [ExperiencePlan("all", tuple(tasks), weights=(1, amount))]

    STREAMS.register("of_budgets")(budget)
    STREAMS.register("of_weights")(weight)
    with pytest.raises(UserError, match="it must be a positive number"):
        build_stream("of_budgets", ("a", "b"), {})
    with pytest.raises(UserError, match="give one positive number for each task"):
        build_stream("of_weights", ("a", "b"), {})


def test_weights_that_hardly_ever_draw_a_task_are_refused_before_memory_is_full():
    plan = ExperiencePlan("all", ("a", "b"), mixing="interleave_over", weights=(1, 1e-300))
    with pytest.raises(UserError, match=f"task 'b' so rarely.*more than {MOST_REPEATS} times"):
        mix_examples([[1, 2], [3]], plan, random.Random(0))


def test_uneven_weights_mix_as_before():
    plan = ExperiencePlan("all", ("a", "b"), mixing="interleave_over", weights=(9, 1))
    mixed = mix_examples([[1, 2], [3, 4]], plan, random.Random(0))
    assert set(mixed) == {1, 2, 3, 4}
    assert len(mixed) < 200
