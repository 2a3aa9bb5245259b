"""Two strategies of a track compared, paired by seed and task order.

What a seed or a task order does to every strategy alike cancels out of paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from epi_bench.errors import UserError, unknown_name
from epi_bench.results.leaderboard.configuration import PUBLISHED, group_by_configuration
from epi_bench.results.leaderboard.measures import find_measure
from epi_bench.results.leaderboard.repetitions import pair_of, values_by_pair
from epi_bench.results.metrics.statistics import Comparison, compare_items, holm
from epi_bench.results.metrics.statistics import compare as compare_values
from epi_bench.results.record.items import unpack_items
from epi_bench.results.record.run_record import RunRecord

COMPARED = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting")
"""The measures that are compared unless others are asked for."""

KEPT = "task_retention"
"""Compared beside them where a track has tasks that are scored and never trained."""


@dataclass(frozen=True)
class ComparedStrategy:
    """One strategy against another.

    Attributes:
        label: The other strategy, with the settings that tell it from others.
        comparisons: By measure; differences are the first strategy's minus the other's. Their
            ``adjusted_p_value`` is Holm-corrected over the others of the table, for each measure.
    """

    label: str
    comparisons: dict[str, Comparison]


def compare(
    first: Sequence[RunRecord], second: Sequence[RunRecord], measure: str = "average_accuracy"
) -> Comparison:
    """The paired difference of two strategies, first minus second.

    Over the (seed, task order) pairs that both have: mean difference, its 95 % interval and the p
    value of the paired t-test. With a single pair there is no test over pairs; average accuracy is
    then compared on the test items (``items``), which says nothing about other seeds.

    Args:
        first: Runs of one strategy, of one track.
        second: Runs of the other one, of the same track.
        measure: A metric or cost, by the name of :data:`MEASURES`.

    Raises:
        UserError: If the measure is unknown.
        ValueError: If the records are of different tracks.
    """
    tracks = {record.track.name for record in (*first, *second)}
    if len(tracks) > 1:
        raise ValueError(f"runs of one track are compared, these are of {len(tracks)}")
    found = compare_values(values_by_pair(first, measure), values_by_pair(second, measure))
    if found.n != 1 or measure != "average_accuracy":
        return found
    common = {pair_of(record) for record in first} & {pair_of(record) for record in second}
    one, other = (
        next(_items(record) for record in records if pair_of(record) in common)
        for records in (first, second)
    )
    return replace(found, items=compare_items(one, other))


def compared_measures(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """The measures that are compared unless others are asked for.

    Args:
        records: The runs of one track.
    """
    has_eval_tasks = any(record.track.facts.eval_tasks for record in records)
    return (*COMPARED, KEPT) if has_eval_tasks else COMPARED


def compare_with_others(
    records: Sequence[RunRecord],
    strategy: str,
    others: Sequence[str] = (),
    measures: Sequence[str] = COMPARED,
    published: Sequence[RunRecord] = (),
) -> list[ComparedStrategy]:
    """One strategy of a track against others, those first that it is furthest behind.

    Args:
        records: All runs of one track.
        strategy: Label or name of the strategy that the others are compared with.
        others: Labels or names of those; all that the track has, if empty.
        measures: What is compared; the first one orders.
        published: Published runs of the track beside them, as strategies of their own.

    Raises:
        UserError: If a strategy or a measure is unknown, a name stands for several configurations,
            or there is nothing to compare with.
    """
    for measure in measures:
        find_measure(measure)
    groups = group_by_configuration(records, published)
    label = find_label(groups, strategy)
    labels = [find_label(groups, name) for name in others] or [n for n in groups if n != label]
    labels = list(dict.fromkeys(labels))
    if label in labels:
        raise UserError(f"{label} cannot be compared with itself: name another strategy")
    if not labels:
        raise UserError(f"there is nothing to compare with: the track holds {label} alone")
    columns = {
        measure: _corrected([compare(groups[label], groups[n], measure) for n in labels])
        for measure in measures
    }
    compared = [
        ComparedStrategy(name, {measure: columns[measure][row] for measure in measures})
        for row, name in enumerate(labels)
    ]
    return sorted(compared, key=lambda c: c.comparisons[measures[0]].mean_difference or 0.0)


def p_value_text(p: float | None) -> str:
    """A p value with three decimals; an en dash where the test is undefined."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def find_label(groups: Mapping[str, Sequence[RunRecord]], name: str) -> str:
    """The label that a strategy has in a track.

    One's own runs come before published ones of the same strategy.

    Args:
        groups: What :func:`group_by_configuration` returned.
        name: A label, or the name of a strategy that has one configuration there.

    Raises:
        UserError: If there is none, or several of that name.
    """
    if name in groups:
        return name
    labels = [label for label, group in groups.items() if group[0].strategy.name == name]
    own = [label for label in labels if not label.endswith(PUBLISHED)]
    labels = own or labels
    if len(labels) > 1:
        raise UserError(
            f"{name} was run with {len(labels)} settings; name one: "
            + ", ".join(repr(label) for label in labels)
        )
    if not labels:
        raise unknown_name("strategy of this track", name, groups)
    return labels[0]


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [
        replace(comparison, adjusted_p_value=p)
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _items(record: RunRecord) -> dict[str, dict[str, float | None]]:
    return {task: unpack_items(packed) for task, packed in record.item_scores.items()}
