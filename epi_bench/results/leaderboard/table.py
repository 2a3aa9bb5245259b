"""A ranking as a table to be read: on the terminal, in markdown, beside the records.

The same ranking always gives the same text: no dates, no environment. Undefined is an en dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.foreign_text import terminal_text
from epi_bench.results.leaderboard import (
    COLUMNS,
    MEASURES,
    Entry,
    Measure,
    Ranking,
)
from epi_bench.tables import Column, FittedTable

UNDEFINED = "–"

BEST = "★"

MARK_SIGNS = {"joint": "§", "dirty": "†", "fewer": "‡", "published": "(published)"}
"""How a mark is shown; the last one is part of the label."""


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


@dataclass(frozen=True)
class RankingTable:
    """A ranking with the columns that show it.

    Attributes:
        ranking: What is shown.
        measures: Names of the measures among the columns.
        columns: From left to right; metrics that no entry defines are left out.
    """

    ranking: Ranking
    measures: tuple[str, ...]
    columns: tuple[TableColumn, ...]

    def fitted(self, most: int | None = None) -> FittedTable:
        """The table for a terminal: ``rich.print(table.fitted())``.

        Args:
            most: Leading columns that are shown; ``None`` for all.
        """
        shown = self.columns[:most]
        cells = [
            [
                terminal_text(cell, "bold" if best else "")
                for cell, best in zip(_starred(column), column.best, strict=True)
            ]
            for column in shown
        ]
        return FittedTable(
            columns=[Column(column.title, column.numeric) for column in shown],
            rows=list(zip(*cells, strict=True)),
            keys=2,
        )


def ranking_table(ranking: Ranking) -> RankingTable:
    """The table of a ranking."""
    entries = ranking.entries
    measures = _shown_measures(ranking)
    none_best = (False,) * len(entries)
    columns = [
        TableColumn("rank", "", tuple(_rank(entry) for entry in entries), none_best),
        TableColumn("strategy", "", tuple(_marked(entry) for entry in entries), none_best, False),
        TableColumn("runs", "", tuple(str(entry.runs) for entry in entries), none_best),
    ]
    columns += [_measure_column(MEASURES[name], entries) for name in measures]
    if any(entry.order_sensitivity for entry in entries):
        cells = tuple(_order_cell(entry) for entry in entries)
        formula = "max - min of R[T,i] over task orders: mean over the tasks / largest"
        columns.append(TableColumn("order sensitivity", formula, cells, none_best))
    return RankingTable(ranking, tuple(measures), tuple(columns))


def table_columns(ranking: Ranking) -> list[TableColumn]:
    """The columns of a ranking's table; metrics that no entry defines are left out."""
    return list(ranking_table(ranking).columns)


def _shown_measures(ranking: Ranking) -> list[str]:
    shown = [name for name in COLUMNS if any(entry.values[name] for entry in ranking.entries)]
    return shown if ranking.measure in shown else [ranking.measure, *shown]


def _starred(column: TableColumn) -> list[str]:
    """The cells with a star after the best ones, padded so that the numbers stay aligned."""
    if not any(column.best):
        return list(column.cells)
    stars = [f" {BEST}" if best else "  " for best in column.best]
    return [cell + star for cell, star in zip(column.cells, stars, strict=True)]


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
    signs = "".join(MARK_SIGNS[mark] for mark in entry.marks if mark != "published")
    return f"{entry.label} {signs}" if signs else entry.label


def _fixed(value: float, decimals: int) -> str:
    """Fixed-point text in which nothing rounds to minus zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
