"""How a command's table is written: for readers, or for other programs."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.printing import put
from epi_bench.foreign_text import for_markdown, json_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epi_bench.tables import FittedTable


class OutputFormat(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


TableFormat = Annotated[OutputFormat, typer.Option("--format", help="How the table is printed.")]
"""The option of a command that prints one table."""


def echo_json(text: str) -> None:
    """Print a JSON document that stays one where the terminal's encoding lacks its characters."""
    from epi_bench.tables.standard_output import escaped

    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = escaped(text)
    put(text)


def show_table(table: FittedTable, output_format: OutputFormat) -> None:
    """Print a table in the wanted format."""
    from epi_bench.tables import make_console

    if output_format is OutputFormat.CSV:
        put(table.to_csv())
    elif output_format is OutputFormat.JSON:
        echo_json(table.to_json())
    elif output_format is OutputFormat.MARKDOWN:
        put(table.to_markdown())
    else:
        make_console().print(table)


def show_tables(tables: Sequence[FittedTable], output_format: OutputFormat) -> None:
    """Print several tables, which have no common columns.

    JSON is a list with the ``title`` and the ``rows`` of each; elsewhere they stand below one
    another with an empty line between two, in CSV without their titles.
    """
    from epi_bench.tables import make_console

    if output_format is OutputFormat.JSON:
        content = [{"title": table.title, "rows": json.loads(table.to_json())} for table in tables]
        echo_json(json_text(content) + "\n")
        return
    console = make_console()
    for number, table in enumerate(tables):
        if number:
            put("\n")
        if output_format is OutputFormat.MARKDOWN:
            put(f"{for_markdown(table.title)}\n\n{table.to_markdown()}")
        elif output_format is OutputFormat.CSV:
            put(table.to_csv())
        else:
            console.print(table)
