"""How a command's table is written: for readers, or for other programs."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epi_bench.tables import FittedTable


class OutputFormat(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


class TextFormat(StrEnum):
    """How several tables are printed, which have no common columns."""

    TABLE = "table"
    MARKDOWN = "markdown"


TableFormat = Annotated[OutputFormat, typer.Option("--format", help="How the table is printed.")]
"""The option of a command that prints one table."""


def echo_json(text: str) -> None:
    """Print a JSON document that stays one where the terminal's encoding lacks its characters."""
    from epi_bench.tables.standard_output import escaped

    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = escaped(text)
    typer.echo(text, nl=not text.endswith("\n"))


def show_table(table: FittedTable, output_format: OutputFormat) -> None:
    """Print a table in the wanted format."""
    from epi_bench.tables import make_console

    if output_format is OutputFormat.CSV:
        typer.echo(table.to_csv(), nl=False)
    elif output_format is OutputFormat.JSON:
        echo_json(table.to_json())
    elif output_format is OutputFormat.MARKDOWN:
        typer.echo(table.to_markdown(), nl=False)
    else:
        make_console().print(table)


def show_tables(tables: Sequence[FittedTable], text_format: TextFormat) -> None:
    """Print several tables below one another, with their titles."""
    from epi_bench.tables import make_console

    console = make_console()
    for number, table in enumerate(tables):
        if number:
            typer.echo()
        if text_format is TextFormat.MARKDOWN:
            typer.echo(f"{table.title}\n\n{table.to_markdown()}", nl=False)
        else:
            console.print(table)
