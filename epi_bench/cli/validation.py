"""``epi-bench tasks validate``: whether task files are fine, and what is wrong if not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.listing import DataFolder
from epi_bench.cli.printing import complain, say
from epi_bench.errors import UserError
from epi_bench.tables import Column, FittedTable, make_console

if TYPE_CHECKING:
    from epi_bench.task.code_task import CodeTask
    from epi_bench.task.files.validation import SplitValidation, TaskValidation


def validate_tasks(
    tasks: Annotated[
        list[str],
        typer.Argument(
            help="TOML files of tasks or suites; names of tasks with --reference-solutions."
        ),
    ],
    data_dir: DataFolder = None,
    reference_solutions: Annotated[
        bool,
        typer.Option(
            "--reference-solutions",
            help="Run the published solutions of tasks that are scored by running code, such as "
            "humaneval and mbpp, in the sandbox: each of them must pass.",
        ),
    ] = False,
) -> None:
    """Check task files and every row they read; exit with code 2 if a run would be stopped."""
    from epi_bench.task.files.validation import validate_task_file

    if reference_solutions:
        _check_reference_solutions(tasks, data_dir)
        return
    results = [validate_task_file(path, data_dir) for path in _task_files(tasks)]
    for result in results:
        _print(result)
    if any(result.problems for result in results):
        raise typer.Exit(2)


def _check_reference_solutions(names: list[str], data_dir: Path | None) -> None:
    """A row for each task; the solutions that do not pass on the error output, and code 2."""
    from epi_bench.task.reference_solutions import run_reference_solutions

    rows = []
    failed = 0
    for task in _code_tasks(names, data_dir):
        begin = time.perf_counter()
        solutions = run_reference_solutions(task)
        seconds = time.perf_counter() - begin
        broken = [solution for solution in solutions if not solution.verdict.passed]
        failed += len(broken)
        passed = len(solutions) - len(broken)
        rows.append((task.name, str(len(solutions)), str(passed), f"{seconds:.0f}"))
        for solution in broken:
            verdict = solution.verdict
            complain(f"{task.name}: {solution.name}: {verdict.outcome}: {verdict.detail}")
    columns = [Column("task")]
    columns += [Column(name, numeric=True) for name in ("reference solutions", "pass", "seconds")]
    make_console().print(FittedTable(columns, rows))
    if failed:
        raise typer.Exit(2)


def _code_tasks(names: list[str], data_dir: Path | None) -> list[CodeTask]:
    from epi_bench.task.code_task import CodeTask
    from epi_bench.task.task import TASKS

    tasks = [TASKS.get(name)(data_dir) for name in names]
    for task in tasks:
        if not isinstance(task, CodeTask):
            raise UserError(
                f"task {task.name!r} is not scored by running code: it has no reference solutions"
            )
    return [task for task in tasks if isinstance(task, CodeTask)]


def _task_files(names: list[str]) -> list[Path]:
    """The files, with the task files that a suite names in place of the suite."""
    from epi_bench.spec.toml import is_file_name
    from epi_bench.task.files.selection import file_kind
    from epi_bench.task.files.suites import read_suite

    found: list[Path] = []
    for path in map(Path, names):
        if file_kind(path) == "task":
            found.append(path)
            continue
        named = [path.parent / Path(task) for task in read_suite(path).tasks if is_file_name(task)]
        say(f"{path}: a suite with {len(named)} task files")
        found += named
    return list(dict.fromkeys(found))


def _print(result: TaskValidation) -> None:
    for problem in result.problems:
        complain(problem)
    for warning in result.warnings:
        complain(f"warning: {result.path}: {warning}")
    count = len(result.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "fine"
    say(f"{result.path}: {verdict}")
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
