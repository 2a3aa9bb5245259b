"""Rankings on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track, legend
from epi_bench.results.leaderboard.table import BEST, TableColumn, table_columns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_rankings(rankings: Sequence[Ranking], console: Console) -> None:
    """Tables for the terminal and one legend for all; columns that do not fit are named."""
    for position, ranking in enumerate(rankings):
        if position:
            console.print()
        console.print(ranking.track, style="bold", highlight=False, markup=False)
        console.print(describe_track(ranking), highlight=False, markup=False)
        columns = table_columns(ranking)
        fitting = _fitting(columns, console.width)
        console.print(_terminal_table(fitting))
        left_out = [column.title for column in columns if column not in fitting]
        if left_out:
            console.print(
                f"Not shown for lack of width: {', '.join(left_out)} (see --format csv).",
                highlight=False,
                markup=False,
            )
    console.print()
    for line in legend(rankings):
        console.print(line, style="dim", highlight=False, markup=False)


def _fitting(columns: Sequence[TableColumn], width: int) -> list[TableColumn]:
    """The leading columns that fit; rank, strategy, runs and the first measure always do."""
    used = 0
    fitting: list[TableColumn] = []
    for column in columns:
        words = column.title.split()
        if column.numeric:
            words += [
                f"{c} {BEST}" if b else c for c, b in zip(column.cells, column.best, strict=True)
            ]
        else:
            words += [word for cell in column.cells for word in cell.split()]
        used += max(len(word) for word in words) + 2
        if len(fitting) >= 4 and used > width:
            break
        fitting.append(column)
    return fitting


def _terminal_table(columns: Sequence[TableColumn]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    texts = []
    for column in columns:
        cells = _starred(column)
        table.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            vertical="bottom",
            min_width=max(map(len, cells)) if column.numeric else None,
            overflow="fold",
        )
        styles = ["bold" if best else "" for best in column.best]
        texts.append([Text(c, style=style) for c, style in zip(cells, styles, strict=True)])
    for row in zip(*texts, strict=True):
        table.add_row(*row)
    return table


def _starred(column: TableColumn) -> list[str]:
    """The cells with a star after the best ones, padded so that the numbers stay aligned."""
    if not any(column.best):
        return list(column.cells)
    stars = [f" {BEST}" if best else "  " for best in column.best]
    return [cell + star for cell, star in zip(column.cells, stars, strict=True)]
