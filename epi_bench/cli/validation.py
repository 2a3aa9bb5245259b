"""``epi-bench tasks validate``: whether task files are fine, and what is wrong if not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.listing import DataFolder
from epi_bench.tables import Column, FittedTable, make_console

if TYPE_CHECKING:
    from epi_bench.task.files.validation import SplitValidation, TaskValidation


def validate_tasks(
    files: Annotated[list[Path], typer.Argument(help="TOML files of tasks or suites.")],
    data_dir: DataFolder = None,
) -> None:
    """Check task files and every row they read; exit with code 2 if a run would be stopped."""
    from epi_bench.task.files.validation import validate_task_file

    results = [validate_task_file(path, data_dir) for path in _task_files(files)]
    for result in results:
        _print(result)
    if any(result.problems for result in results):
        raise typer.Exit(2)


def _task_files(files: list[Path]) -> list[Path]:
    """The files, with the task files that a suite names in place of the suite."""
    from epi_bench.spec.toml import is_file_name
    from epi_bench.task.files.selection import file_kind
    from epi_bench.task.files.suites import read_suite

    found: list[Path] = []
    for path in files:
        if file_kind(path) == "task":
            found.append(path)
            continue
        named = [path.parent / Path(task) for task in read_suite(path).tasks if is_file_name(task)]
        typer.echo(f"{path}: a suite with {len(named)} task files")
        found += named
    return list(dict.fromkeys(found))


def _print(result: TaskValidation) -> None:
    for problem in result.problems:
        typer.echo(f"epi-bench: {problem}", err=True)
    for warning in result.warnings:
        typer.echo(f"epi-bench: warning: {result.path}: {warning}", err=True)
    count = len(result.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "fine"
    typer.echo(f"{result.path}: {verdict}")
    if result.task is None:
        return
    card = result.task.card
    table = FittedTable(
        [
            Column("split"),
            Column("rows from", text=True),
            Column("rows", numeric=True),
            Column("examples", numeric=True),
            Column("left out", text=True),
            Column("broken", numeric=True),
        ],
        [_cells(split) for split in result.splits],
        f"{result.task.name} ({card.scoring}, {card.metric})",
    )
    make_console().print(table)


def _cells(split: SplitValidation) -> tuple[str, ...]:
    left_out = ", ".join(f"{count} ({reason})" for reason, count in split.skipped.items())
    numbers = (split.rows, len(split.examples))
    return (
        split.split,
        split.origin,
        *map(str, numbers),
        left_out or "0",
        str(len(split.broken)),
    )
