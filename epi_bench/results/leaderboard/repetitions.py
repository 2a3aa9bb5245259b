"""The repetitions of a strategy: one value for each pair of seed and task order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from epi_bench.results.leaderboard.measures import find_measure
from epi_bench.results.record.run_record import RunRecord

Pair = tuple[int, tuple[str, ...]]
"""A repetition: seed and task order."""


def pair_of(record: RunRecord) -> Pair:
    """The repetition that a run is: its seed and its task order."""
    return record.spec.seed, record.task_order


def pairs_of(records: Sequence[RunRecord]) -> tuple[Pair, ...]:
    """The repetitions among runs, each once, sorted."""
    return tuple(sorted({pair_of(record) for record in records}))


def values_by_pair(records: Sequence[RunRecord], measure: str) -> dict[Pair, float]:
    """A measure of each repetition that defines it.

    Raises:
        UserError: If the measure is unknown.
    """
    return mean_by_pair(records, find_measure(measure).of)


def mean_by_pair(
    records: Sequence[RunRecord], value_of: Callable[[RunRecord], float | None]
) -> dict[Pair, float]:
    """A value of each repetition; runs of the same repetition count once, as their mean."""
    found: dict[Pair, list[float]] = {}
    for record in records:
        value = value_of(record)
        if value is not None:
            found.setdefault(pair_of(record), []).append(value)
    return {pair: math.fsum(values) / len(values) for pair, values in found.items()}
