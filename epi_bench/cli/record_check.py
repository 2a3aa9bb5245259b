"""``epi-bench leaderboard validate``: what is wrong with records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epi_bench.cli.output import OutputFormat, TableFormat, show_table
from epi_bench.cli.printing import say


def validate(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="A board, the folder of a track, a folder of runs, or one record. Left out: "
            "./results, or the published board where there are none of your own.",
            show_default=False,
        ),
    ] = None,
    output_format: TableFormat = OutputFormat.TABLE,
) -> None:
    """Check records: what was derived is computed again and compared.

    Prints the file and field of everything that is wrong, with what is written
    there and what follows from the rest of the record. The exit code is 1 if
    anything is wrong.
    """
    from epi_bench.results.leaderboard import default_board
    from epi_bench.results.leaderboard.validation import validate_records
    from epi_bench.tables import Column, FittedTable

    folder = default_board() if folder is None else folder
    found = validate_records(folder)
    rows = [(str(f.file), f.field, f.written, f.recomputed, f.problem) for f in found.findings]
    columns = [Column(title, text=title == "problem") for title in _TITLES]
    if rows or output_format is not OutputFormat.TABLE:
        show_table(FittedTable(columns, rows), output_format)
    wrong = len({finding.file for finding in found.findings})
    said = f"{wrong} of them wrong" if wrong else "nothing is wrong"
    say(f"{len(found.files)} record(s) in {folder}: {said}", aside=True)
    if wrong:
        raise typer.Exit(1)


_TITLES = ("file", "field", "written", "recomputed", "problem")
