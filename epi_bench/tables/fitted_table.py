"""Tables that lose nothing: on a terminal of any width, in a pipe, as CSV, JSON and markdown.

rich shortens what does not fit with an ellipsis, or lets a table run over the right edge. Here a
table that is too wide is split into several below one another, each with the columns that name the
rows; columns that are too wide even so become a list.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from epi_bench.foreign_text import (
    for_csv,
    for_markdown,
    for_terminal,
    json_text,
    markdown_code,
    terminal_text,
)

if TYPE_CHECKING:
    from rich.align import AlignMethod
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

Cell: TypeAlias = "str | Text"
"""Plain text, or text with a style."""

GAP = 2
"""Spaces between two columns."""

READABLE = 28
"""Characters in a line of running text, which is not squeezed into less."""


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is shown.

    Attributes:
        title: Its head; a table whose titles are all empty has none.
        numeric: Whether it is aligned to the right and never wrapped.
        text: Whether it holds sentences, which are wrapped at spaces.
        code: Whether markdown shows its cells as code.
        markdown_title: Its head in markdown, where that is more than the title's text.
    """

    title: str
    numeric: bool = False
    text: bool = False
    code: bool = False
    markdown_title: str = ""


@dataclass(frozen=True)
class FittedTable:
    """A table that fits wherever it is printed: ``rich.print(table)``, ``console.print(table)``.

    Attributes:
        columns: From left to right.
        rows: One cell a column. Markup and terminal codes in them are shown as text.
        title: Printed above; empty for none.
        keys: Number of leading columns that say which row it is. They are repeated where a table is
            split.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    keys: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in {len(self.columns)} columns")

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.text import Text

        if self.title:
            yield terminal_text(self.title, "bold")
        columns = [
            _Measured(column, [_text(row[position]) for row in self.rows])
            for position, column in enumerate(self.columns)
        ]
        blocks, rest = _split(columns, self.keys, options.max_width)
        for number, block in enumerate(blocks):
            if number:
                yield Text()
            yield _block(block, options.max_width)
        if blocks and rest:
            yield Text()
        yield from _lists(rest)

    def to_csv(self) -> str:
        """The table as CSV, with the titles as its first line."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([for_csv(column.title) for column in self.columns])
        writer.writerows([for_csv(str(cell)) for cell in row] for row in self.rows)
        return text.getvalue()

    def to_json(self) -> str:
        """The table as a JSON list with an object for each row, by the columns' titles."""
        titles = [column.title for column in self.columns]
        content = [dict(zip(titles, map(str, row), strict=True)) for row in self.rows]
        return json_text(content) + "\n"

    def to_markdown(self) -> str:
        """The table as markdown."""
        shown = [markdown_code if column.code else for_markdown for column in self.columns]
        titles = [column.markdown_title or for_markdown(column.title) for column in self.columns]
        sides = ["---:" if column.numeric else ":---" for column in self.columns]
        cells = [
            [show(str(cell)) for show, cell in zip(shown, row, strict=True)] for row in self.rows
        ]
        return "".join(f"{markdown_row(row)}\n" for row in (titles, sides, *cells))


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a markdown table.

    Args:
        cells: Each a line of markdown without a pipe, as
            :func:`~epi_bench.foreign_text.for_markdown` makes it.
    """
    return f"| {' | '.join(cells)} |"


class _Measured:
    """A column with its cells and the widths that it can have."""

    def __init__(self, column: Column, cells: Sequence[Text]) -> None:
        self.column, self.cells = column, cells
        self.title = _text(column.title)
        self.natural = max(text.cell_len for text in (self.title, *cells))
        word = max(_longest_word(text) for text in (self.title, *cells))
        if column.numeric:
            word = max([_longest_word(self.title), *(text.cell_len for text in cells)])
        self.least = max(word, min(self.natural, READABLE)) if column.text else word


def _text(cell: Cell) -> Text:
    if isinstance(cell, str):
        return terminal_text(cell)
    as_shown = for_terminal(cell.plain)
    return cell if as_shown == cell.plain else terminal_text(as_shown, str(cell.style))


def _longest_word(text: Text) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.plain.split()), default=0)


def _split(
    columns: Sequence[_Measured], keys: int, width: int
) -> tuple[list[list[_Measured]], list[_Measured]]:
    """The columns of each table below one another, and those that only a list can show."""
    named = list(columns[:keys])
    narrow = [c for c in columns[keys:] if _least_width([*named, c]) <= width]
    wide = [c for c in columns[keys:] if c not in narrow]
    if not narrow and (wide or _least_width(named) > width):
        return [], list(columns)
    blocks = [named]
    for column in narrow:
        if len(blocks[-1]) > keys and _least_width([*blocks[-1], column]) > width:
            blocks.append(named)
        blocks[-1] = [*blocks[-1], column]
    return blocks, [*named, *wide] if wide else []


def _least_width(columns: Sequence[_Measured]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _block(columns: Sequence[_Measured], width: int) -> RenderableType:
    """One table, whose columns' widths are given: rich would squeeze them below a word."""
    from rich import box
    from rich.align import Align
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,  # one space between columns
        show_header=any(column.title for column in columns),
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    widths = _share_out(
        [column.least for column in columns],
        [column.natural for column in columns],
        width - GAP * (len(columns) - 1),
    )
    for measured, column_width in zip(columns, widths, strict=True):
        side: AlignMethod = "right" if measured.column.numeric else "left"
        head = Align(measured.title, side, vertical="bottom")
        table.add_column(head, justify=side, width=column_width, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _share_out(least: Sequence[int], natural: Sequence[int], available: int) -> list[int]:
    """Each column's width: at least ``least``, at most ``natural``, the rest shared evenly."""
    widths = list(least)
    spare = available - sum(widths)
    while spare > 0:
        narrow = [i for i, width in enumerate(widths) if width < natural[i]]
        if not narrow:
            break
        for i in narrow:
            more = min(max(spare // len(narrow), 1), natural[i] - widths[i], spare)
            widths[i] += more
            spare -= more
    return widths


def _lists(columns: Sequence[_Measured]) -> Iterator[RenderableType]:
    """Every row as the list of its cells, each after the title of its column."""
    from rich.padding import Padding
    from rich.text import Text

    for row in range(len(columns[0].cells) if columns else 0):
        for position, column in enumerate(columns):
            cell = Text(overflow="fold")
            if column.title:
                cell.append(f"{column.title.plain}: ", style="dim")
            cell.append_text(column.cells[row])
            yield Padding(cell, (0, 0, 0, 2 if position else 0))
