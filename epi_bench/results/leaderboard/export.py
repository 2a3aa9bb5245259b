"""Rankings for other programs: CSV and JSON with every measure, interval and count."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from epi_bench.foreign_text import for_csv, json_text
from epi_bench.results.leaderboard.comparison import ComparedStrategy
from epi_bench.results.leaderboard.measures import MEASURES
from epi_bench.results.leaderboard.ranking import Entry, Ranking
from epi_bench.results.metrics.statistics import Interval


def to_csv(rankings: Sequence[Ranking]) -> str:
    """All measures of all entries, one line an entry; marks are joined by spaces."""
    entries = [entry for ranking in rankings for entry in ranking.entries]
    names = [
        name
        for name, measure in MEASURES.items()
        if not measure.optional or any(entry.values[name] for entry in entries)
    ]
    header = ["track", "ranked_by", "rank", "strategy", "runs", "pairs", "marks"]
    for name in names:
        header += [name, f"{name}_half_width", f"{name}_n"]
    header += ["order_sensitivity_mean", "order_sensitivity_max"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for ranking in rankings:
        for entry in ranking.entries:
            row: list[Any] = [for_csv(ranking.track), ranking.measure]
            row += [entry.rank, for_csv(entry.label)]
            row += [entry.runs, len(entry.pairs), " ".join(entry.marks)]
            for name in names:
                row += _interval_cells(entry.values[name])
            row += [_rounded(value) for value in entry.order_sensitivity or (None, None)]
            writer.writerow(row)
    return text.getvalue()


def to_json(rankings: Sequence[Ranking]) -> str:
    """Everything that the rankings hold, the tests between all pairs included."""
    return json_text({"tracks": [_ranking_content(ranking) for ranking in rankings]}) + "\n"


def comparisons_to_csv(strategy: str, compared: Sequence[ComparedStrategy]) -> str:
    """Every comparison of a table, one line for each other strategy and measure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_COMPARISON), lineterminator="\n")
    writer.writeheader()
    for content in _comparison_contents(strategy, compared):
        writer.writerow({**content, **{k: for_csv(content[k]) for k in ("first", "second")}})
    return text.getvalue()


def comparisons_to_json(strategy: str, compared: Sequence[ComparedStrategy]) -> str:
    """The same as :func:`comparisons_to_csv` as a JSON list of objects."""
    return json_text(_comparison_contents(strategy, compared)) + "\n"


_COMPARISON = (
    "first",
    "second",
    "metric",
    "pairs",
    "mean_difference",
    "low",
    "high",
    "p_value",
    "adjusted_p_value",
    "items",
    "items_mean_difference",
    "items_low",
    "items_high",
)
"""What is written of a comparison; ``low`` and ``high`` are the ends of its 95 % interval."""


def _comparison_contents(
    strategy: str, compared: Sequence[ComparedStrategy]
) -> list[dict[str, Any]]:
    contents = []
    for other in compared:
        for measure, found in other.comparisons.items():
            low, high = found.interval or (None, None)
            items = found.items
            numbers = [found.mean_difference, low, high, found.p_value, found.adjusted_p_value]
            of_items: list[float | None] = [None, None, None]
            if items is not None:
                of_items = [items.mean_difference, items.low, items.high]
            values = (
                strategy,
                other.label,
                measure,
                found.n,
                *map(_rounded, numbers),
                None if items is None else items.n,
                *map(_rounded, of_items),
            )
            contents.append(dict(zip(_COMPARISON, values, strict=True)))
    return contents


def _rounded(value: float | None) -> float | None:
    """Six decimals: what remains is the same whatever library computed the last bits."""
    return None if value is None else round(value, 6) + 0.0


def _interval_cells(interval: Interval | None) -> list[float | int | None]:
    if interval is None:
        return [None, None, 0]
    return [_rounded(interval.mean), _rounded(interval.half_width), interval.n]


def _ranking_content(ranking: Ranking) -> dict[str, Any]:
    order = [entry.label for entry in ranking.entries]
    return {
        "track": ranking.track,
        "facts": ranking.facts.model_dump(mode="json"),
        "ranked_by": ranking.measure,
        "entries": [_entry_content(entry) for entry in ranking.entries],
        "comparisons": [
            {
                "first": first,
                "second": second,
                "pairs": found.n,
                "mean_difference": _rounded(found.mean_difference),
                "p_value": _rounded(found.p_value),
                "adjusted_p_value": _rounded(found.adjusted_p_value),
            }
            for (first, second), found in ranking.comparisons.items()
            if order.index(first) < order.index(second)
        ],
    }


def _entry_content(entry: Entry) -> dict[str, Any]:
    return {
        "rank": entry.rank,
        "strategy": entry.label,
        "runs": entry.runs,
        "pairs": [{"seed": seed, "task_order": list(order)} for seed, order in entry.pairs],
        "marks": list(entry.marks),
        "values": _interval_contents(entry.values),
        "secondary_scores": {
            task: _interval_contents(metrics) for task, metrics in entry.secondary_scores.items()
        },
        "order_sensitivity": [_rounded(value) for value in entry.order_sensitivity or ()] or None,
    }


def _interval_contents(intervals: Mapping[str, Interval | None]) -> dict[str, dict[str, Any]]:
    contents = {}
    for name, interval in intervals.items():
        mean, half_width, count = _interval_cells(interval)
        contents[name] = {"mean": mean, "half_width": half_width, "n": count}
    return contents
