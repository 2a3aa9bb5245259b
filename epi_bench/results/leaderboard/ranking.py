"""From the records of a track to a ranking: repetitions averaged, compared and marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from epi_bench.results.leaderboard.configuration import PUBLISHED, group_by_configuration
from epi_bench.results.leaderboard.measures import MEASURES, find_measure
from epi_bench.results.leaderboard.repetitions import (
    Pair,
    mean_by_pair,
    pairs_of,
    values_by_pair,
)
from epi_bench.results.metrics.score_matrix import order_sensitivity
from epi_bench.results.metrics.statistics import (
    Comparison,
    Interval,
    compare_all,
    mean_interval,
    shared_ranks,
)
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.track import TrackFacts

Mark = Literal["joint", "dirty", "fewer", "published"]

MARKS: dict[Mark, str] = {
    "joint": "sees the data of all tasks from the beginning: no continual learner",
    "dirty": "made from a checkout with changed files",
    "fewer": "fewer (seed, task order) pairs than others",
    "published": "from the published board, beside your own runs",
}
"""What a reader should know of an entry beside its numbers."""


@dataclass(frozen=True)
class Entry:
    """One configuration of a strategy with all its repetitions.

    Attributes:
        label: Strategy with the settings that tell it from others.
        strategy: The strategy's name.
        rank: By the ranking's measure; ``None`` if that is undefined for it.
        runs: Number of records.
        pairs: The repetitions (seed, task order).
        values: Mean and interval of each measure over the repetitions that define it; ``None``
            where none does.
        order_sensitivity: Mean and largest over the tasks of max - min of the final score over
            task orders; ``None`` with fewer than two orders.
        secondary_scores: Mean and interval over the repetitions of every metric that a task
            reports after the last experience, in the task's own units, by task and metric.
        marks: What a reader should know of it, see :data:`MARKS`.
    """

    label: str
    strategy: str
    rank: int | None
    runs: int
    pairs: tuple[Pair, ...]
    values: dict[str, Interval | None]
    order_sensitivity: tuple[float, float] | None
    secondary_scores: dict[str, dict[str, Interval | None]]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Ranking:
    """A track's entries, best first.

    Attributes:
        track: The track's name.
        facts: What all runs of the track have in common.
        measure: Name of the measure that ranks.
        entries: Best mean first; those without a value last.
        comparisons: Of every two entries with a value, by labels.
    """

    track: str
    facts: TrackFacts
    measure: str
    entries: tuple[Entry, ...]
    comparisons: dict[tuple[str, str], Comparison]


def rank_track(
    records: Sequence[RunRecord],
    measure: str = "average_accuracy",
    published: Sequence[RunRecord] = (),
) -> Ranking:
    """The ranking of one track.

    Args:
        records: All runs of one track, at least one.
        measure: What ranks.
        published: Published runs of the same track beside them. They are entries of their own,
            marked, and ranked and tested with the others.

    Raises:
        UserError: If the measure is unknown.
        ValueError: If the records are of different tracks.
    """
    tracks = {record.track.name for record in (*records, *published)}
    if len(tracks) != 1:
        raise ValueError(f"one track is ranked at a time, these are {len(tracks)}")
    chosen = find_measure(measure)
    groups = group_by_configuration(records, published)
    values = {label: values_by_pair(group, measure) for label, group in groups.items()}
    means = {label: math.fsum(v.values()) / len(v) for label, v in values.items() if v}
    sign = -1 if chosen.higher_is_better else 1
    order = sorted(means, key=lambda label: (sign * means[label], label))
    comparisons = compare_all({label: values[label] for label in order})
    ranks = shared_ranks(order, comparisons, chosen.higher_is_better)
    most = max(len(pairs_of(group)) for group in groups.values())
    entries = [
        _entry(label, groups[label], ranks.get(label), most)
        for label in [*order, *(label for label in groups if label not in means)]
    ]
    return Ranking(tracks.pop(), records[0].track.facts, measure, tuple(entries), comparisons)


def _entry(label: str, group: Sequence[RunRecord], rank: int | None, most_pairs: int) -> Entry:
    pairs = pairs_of(group)
    marks: list[Mark] = []
    if any(record.strategy.sees_all_tasks for record in group):
        marks.append("joint")
    if any(record.environment.git_dirty for record in group):
        marks.append("dirty")
    if len(pairs) < most_pairs:
        marks.append("fewer")
    if label.endswith(PUBLISHED):
        marks.append("published")
    return Entry(
        label=label,
        strategy=group[0].strategy.name,
        rank=rank,
        runs=len(group),
        pairs=pairs,
        values={
            name: mean_interval(list(values_by_pair(group, name).values())) for name in MEASURES
        },
        order_sensitivity=_order_sensitivity(group),
        secondary_scores=_secondary_scores(group),
        marks=tuple(marks),
    )


def _secondary_scores(group: Sequence[RunRecord]) -> dict[str, dict[str, Interval | None]]:
    names = {
        (task, metric)
        for record in group
        for task, metrics in record.secondary_scores.items()
        for metric in metrics
    }
    table: dict[str, dict[str, Interval | None]] = {}
    for task, metric in sorted(names):

        def value_of(record: RunRecord, task: str = task, metric: str = metric) -> float | None:
            return record.secondary_scores.get(task, {}).get(metric)

        values = mean_by_pair(group, value_of).values()
        table.setdefault(task, {})[metric] = mean_interval(list(values))
    return table


def _order_sensitivity(group: Sequence[RunRecord]) -> tuple[float, float] | None:
    """Mean and maximum over the tasks, of final scores averaged over the seeds of each order."""
    by_order: dict[tuple[str, ...], list[Mapping[str, float | None]]] = {}
    for record in group:
        by_order.setdefault(record.task_order, []).append(record.final_scores)
    averaged = [
        {task: _mean_of_all([scores[task] for scores in finals]) for task in sorted(finals[0])}
        for finals in by_order.values()
    ]
    spreads = [spread for spread in order_sensitivity(averaged).values() if spread is not None]
    if not spreads or len(spreads) < len(averaged[0]):
        return None
    return math.fsum(spreads) / len(spreads), max(spreads)


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean, undefined where one of the values is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
