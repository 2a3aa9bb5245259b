"""Rankings as tables to be read: on the terminal, in markdown, beside the records.

The same rankings always give the same text: no dates, no environment. Undefined is an en dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.results.leaderboard import (
    COLUMNS,
    MEASURES,
    Entry,
    Measure,
    Ranking,
)

UNDEFINED = "–"


BEST = "★"


MARK_SIGNS = {"dirty": "†", "fewer": "‡"}


@dataclass(frozen=True)
class TableColumn:
    """A column ready to be shown.

    Attributes:
        title: Its head.
        formula: Its line in the legend; empty for none.
        cells: One text an entry.
        best: For each entry whether it holds the column's best value.
        numeric: Whether it is aligned to the right.
    """

    title: str
    formula: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    numeric: bool = True


def table_columns(ranking: Ranking) -> list[TableColumn]:
    """The columns of a ranking's table; metrics that no entry defines are left out."""
    entries = ranking.entries
    none_best = (False,) * len(entries)
    columns = [
        TableColumn("rank", "", tuple(_rank(entry) for entry in entries), none_best),
        TableColumn("strategy", "", tuple(_marked(entry) for entry in entries), none_best, False),
        TableColumn("runs", "", tuple(str(entry.runs) for entry in entries), none_best),
    ]
    columns += [_measure_column(MEASURES[name], entries) for name in table_measures(ranking)]
    if any(entry.order_sensitivity for entry in entries):
        cells = tuple(_order_cell(entry) for entry in entries)
        formula = "max - min of R[T,i] over task orders: mean over the tasks / largest"
        columns.append(TableColumn("order sensitivity", formula, cells, none_best))
    return columns


def table_measures(ranking: Ranking) -> list[str]:
    """Names of the measures that a ranking's table shows."""
    shown = [name for name in COLUMNS if any(entry.values[name] for entry in ranking.entries)]
    return shown if ranking.measure in shown else [ranking.measure, *shown]


def _measure_column(measure: Measure, entries: Sequence[Entry]) -> TableColumn:
    intervals = [entry.values[measure.name] for entry in entries]
    means = [interval.mean for interval in intervals if interval]
    best = (max(means) if measure.higher_is_better else min(means)) if means else None
    distinct = len(set(means)) > 1 and not measure.diagnostic
    return TableColumn(
        measure.title,
        measure.formula,
        tuple(_cell(entry, measure) for entry in entries),
        tuple(bool(distinct and interval and interval.mean == best) for interval in intervals),
    )


def _cell(entry: Entry, measure: Measure) -> str:
    interval = entry.values[measure.name]
    if interval is None:
        return UNDEFINED
    text = _fixed(interval.mean / measure.divisor, measure.decimals)
    if interval.half_width is not None:
        text += f" ± {_fixed(interval.half_width / measure.divisor, measure.decimals)}"
    return text if interval.n == len(entry.pairs) else f"{text} (n={interval.n})"


def _order_cell(entry: Entry) -> str:
    if entry.order_sensitivity is None:
        return UNDEFINED
    mean, largest = entry.order_sensitivity
    return f"{mean:.1f} / {largest:.1f}"


def _rank(entry: Entry) -> str:
    return UNDEFINED if entry.rank is None else str(entry.rank)


def _marked(entry: Entry) -> str:
    signs = "".join(MARK_SIGNS[mark] for mark in entry.marks)
    return f"{entry.label} {signs}" if signs else entry.label


def _fixed(value: float, decimals: int) -> str:
    """Fixed-point text in which nothing rounds to minus zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
