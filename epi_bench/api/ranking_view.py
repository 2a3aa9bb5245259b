"""Rankings to look at: as HTML in a notebook, as a table on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from epi_bench.foreign_text import for_html, terminal_text
from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track
from epi_bench.results.leaderboard.table import BEST, TableColumn, ranking_table

if TYPE_CHECKING:
    from rich.console import RenderableType

TERMINAL_COLUMNS = 7
"""Columns of a ranking on a terminal; a notebook shows all of them."""


def ranking_parts(rankings: Sequence[Ranking], notes: Sequence[str]) -> Iterator[RenderableType]:
    """What rich prints: for each track its name and table, then the notes.

    Args:
        rankings: One a track.
        notes: Lines below the tables.
    """
    for ranking in rankings:
        yield terminal_text(ranking.track, "bold")
        yield terminal_text(describe_track(ranking), "dim")
        yield ranking_table(ranking).fitted(TERMINAL_COLUMNS)
    for note in notes:
        yield terminal_text(note, "yellow")


def ranking_html(rankings: Sequence[Ranking], notes: Sequence[str]) -> str:
    """The same as HTML, with every column of the table; arguments as :func:`ranking_parts`."""
    parts = ["<div>"]
    for ranking in rankings:
        parts += [
            f"<p><b>{for_html(ranking.track)}</b><br>{for_html(describe_track(ranking))}</p>",
            _html_table(ranking_table(ranking).columns),
        ]
    parts += [f"<p>{for_html(note)}</p>" for note in notes]
    return "\n".join([*parts, "</div>"])


def _html_table(columns: Sequence[TableColumn]) -> str:
    heads = "".join(
        f'<th title="{for_html(column.formula)}">{for_html(column.title)}</th>'
        for column in columns
    )
    lines = ["<table>", f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    sides = ["right" if column.numeric else "left" for column in columns]
    for cells in zip(*(_marked(column) for column in columns), strict=True):
        shown = "".join(
            f'<td style="text-align: {side}">{for_html(cell)}</td>'
            for side, cell in zip(sides, cells, strict=True)
        )
        lines.append(f"<tr>{shown}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _marked(column: TableColumn) -> list[str]:
    """The cells, the best ones with a star."""
    return [
        f"{cell} {BEST}" if best else cell
        for cell, best in zip(column.cells, column.best, strict=True)
    ]
