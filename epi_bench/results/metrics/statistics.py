"""Statistics of repeated runs: intervals, paired tests, correction, shared ranks.

A repetition is a pair (seed, task order). Strategies are compared on the repetitions that both of
them have, so that what a seed or an order does to every strategy alike cancels out.

The formulas are short and written out here. ``scipy.special`` has the distributions and takes a
third of the time of ``scipy.stats`` to import (0.3 s against 1.0 s; statsmodels 1.4 s), which every
table would wait for. The tests hold them against ``scipy.stats`` and statsmodels. scipy is imported
inside the functions that need it: a table of single runs needs none.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

Repetition = TypeVar("Repetition", bound=Hashable)

SIGNIFICANCE = 0.05
"""Level of the two-sided tests, after correction."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval ``mean ± half_width``.

    Attributes:
        mean: Of the values.
        half_width: Half the interval's length; ``None`` for a single value.
        n: Number of values.
    """

    mean: float
    half_width: float | None
    n: int


@dataclass(frozen=True, slots=True)
class BootstrapDifference:
    """Difference of two runs' mean item scores with its bootstrap interval, first minus second.

    Attributes:
        n: Number of common items.
        mean_difference: Mean over the tasks of the mean difference of their items.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    n: int
    mean_difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two strategies on the repetitions that both have.

    Attributes:
        n: Number of common repetitions.
        mean_difference: First minus second; ``None`` without common repetitions.
        p_value: Two-sided; ``None`` where the test is undefined.
        adjusted_p_value: After correction for all comparisons made together.
        half_width: Half the 95 % Student-t interval of the mean difference; ``None`` where the test
            is undefined.
        items: The same two strategies compared on their test items, where they have a single
            common repetition; see :func:`compare_items`.
    """

    n: int
    mean_difference: float | None
    p_value: float | None
    adjusted_p_value: float | None = None
    half_width: float | None = None
    items: BootstrapDifference | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected test finds a difference; an undefined test finds none."""
        return self.adjusted_p_value is not None and self.adjusted_p_value < SIGNIFICANCE

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % interval over the repetitions, if there is one."""
        if self.mean_difference is None or self.half_width is None:
            return None
        return self.mean_difference - self.half_width, self.mean_difference + self.half_width


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean, from the sample variance (n - 1); ``None`` below two values.

    >>> standard_error([1.0, 2.0, 3.0, 4.0, 5.0])
    0.7071067811865476
    """
    count = len(values)
    if count < 2:
        return None
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return math.sqrt(variance / count)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Mean and Student-t interval: mean ± t_{n-1} s / sqrt(n).

    Args:
        values: One a repetition.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        ``None`` without values; an interval without width for a single one.
    """
    count = len(values)
    if count == 0:
        return None
    mean = math.fsum(values) / count
    error = standard_error(values)
    if error is None:
        return Interval(mean, None, 1)
    from scipy.special import stdtrit

    quantile = float(stdtrit(count - 1, 0.5 + confidence / 2))
    return Interval(mean, quantile * error, count)


def compare(first: Mapping[Repetition, float], second: Mapping[Repetition, float]) -> Comparison:
    """Paired two-sided t-test of two strategies over their common repetitions.

    Undefined with fewer than two of them, and where all differences are the same. A signed-rank
    test would assume no distribution, but cannot reach 5 % with fewer than six repetitions.

    Args:
        first: Values by repetition.
        second: The same of the other strategy.
    """
    differences = [first[key] - second[key] for key in first if key in second]
    count = len(differences)
    if count == 0:
        return Comparison(0, None, None)
    mean = math.fsum(differences) / count
    tolerance = 1e-9 * max(1.0, *(abs(value) for value in differences))
    error = standard_error(differences)
    if error is None or max(differences) - min(differences) <= tolerance:
        return Comparison(count, mean, None)
    from scipy.special import stdtr, stdtrit

    return Comparison(
        count,
        mean,
        p_value=float(2 * stdtr(count - 1, -abs(mean / error))),
        half_width=float(stdtrit(count - 1, 0.975)) * error,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for being made together: Holm's step-down method (Holm 1979).

    Undefined tests stay undefined and do not count.
    """
    defined = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * p))
        adjusted[position] = largest
    return adjusted


def compare_all(
    values: Mapping[str, Mapping[Repetition, float]],
) -> dict[tuple[str, str], Comparison]:
    """Every pair of strategies compared, Holm-corrected over all pairs.

    Args:
        values: For each strategy its values by repetition.

    Returns:
        Both orders of each pair.
    """
    pairs = list(combinations(values, 2))
    found = [compare(values[first], values[second]) for first, second in pairs]
    adjusted = holm([comparison.p_value for comparison in found])
    comparisons: dict[tuple[str, str], Comparison] = {}
    for (first, second), comparison, p in zip(pairs, found, adjusted, strict=True):
        forth = replace(comparison, adjusted_p_value=p)
        difference = comparison.mean_difference
        comparisons[first, second] = forth
        comparisons[second, first] = replace(
            forth, mean_difference=None if difference is None else -difference
        )
    return comparisons


def shared_ranks(
    ranking: Sequence[str],
    comparisons: Mapping[tuple[str, str], Comparison],
    higher_is_better: bool = True,
) -> dict[str, int]:
    """Ranks in which strategies that cannot be told apart share one.

    Walking down the ranking, a strategy shares the rank of the group's best (the first one of the
    group) unless it is significantly worse than that one; then it begins a group of its own, whose
    rank is its position. So ranks run like 1, 1, 3. Where the test against the group's best is
    undefined, because one of the two has a single run, the next best of the group takes its place,
    so that one lucky run on top does not make everything below it equal.

    Args:
        ranking: Best mean first.
        comparisons: What :func:`compare_all` returned.
        higher_is_better: Direction of the compared values.
    """
    ranks: dict[str, int] = {}
    group: list[str] = []
    for position, name in enumerate(ranking, start=1):
        tests = (comparisons[name, better] for better in group)
        decisive = next((test for test in tests if test.p_value is not None), None)
        if not group or (decisive is not None and _worse(decisive, higher_is_better)):
            group = []
        group.append(name)
        ranks[name] = ranks[group[0]] if len(group) > 1 else position
    return ranks


def compare_items(
    first: Mapping[str, Mapping[str, float | None]],
    second: Mapping[str, Mapping[str, float | None]],
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> BootstrapDifference | None:
    """Two single runs compared on the same test items: paired percentile bootstrap.

    It says how far the difference depends on the choice of test items, and nothing about other
    seeds or orders. Items are drawn within each task, and every task counts alike however many
    items it has, as in average accuracy.

    Args:
        first: Item scores by task and item id, 0..100.
        second: The same of the other run; items that only one of them has do not count.
        confidence: Coverage of the interval, between 0 and 1.
        resamples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        ``None`` if a task that one of the runs has holds fewer than two common items.
    """
    tasks = {task: _item_differences(first, second, task) for task in {**first, **second}}
    if not tasks or min(map(len, tasks.values())) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    def mean_of_tasks(*differences: Any, axis: int = -1) -> Any:
        return np.mean([task.mean(axis=axis) for task in differences], axis=0)

    interval = bootstrap(
        tuple(map(np.array, tasks.values())),
        mean_of_tasks,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    means = [math.fsum(found) / len(found) for found in tasks.values()]
    return BootstrapDifference(
        n=sum(map(len, tasks.values())),
        mean_difference=math.fsum(means) / len(means),
        low=float(interval.low),
        high=float(interval.high),
    )


def _item_differences(
    first: Mapping[str, Mapping[str, float | None]],
    second: Mapping[str, Mapping[str, float | None]],
    task: str,
) -> list[float]:
    """First minus second of each item of a task that both have."""
    ours, theirs = first.get(task, {}), second.get(task, {})
    return [
        one - other
        for item, one in ours.items()
        if one is not None and (other := theirs.get(item)) is not None
    ]


def _worse(comparison: Comparison, higher_is_better: bool) -> bool:
    difference = comparison.mean_difference
    if difference is None or not comparison.significant:
        return False
    return difference < 0 if higher_is_better else difference > 0
