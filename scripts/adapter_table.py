"""What every data-set task makes of the local files in a folder, as a Markdown table.

    python scripts/adapter_table.py DATA_DIR [TASK ...]

Each published file that a task knows and that lies in the folder gets a line for each split it
feeds: rows read, rows of that split, examples made, rows skipped and why. A file that cannot be
read gets a line with the error, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.task.dataset_task import DatasetTask
from epi_bench.task.rows.locate import locate
from epi_bench.task.rows.source import SPLITS, Split
from epi_bench.task.task import TASKS


@dataclass(frozen=True)
class AdapterLine:
    """One line of the table.

    Attributes:
        task: Name of the task.
        split: Ours.
        origin: File, relative to the folder; a dash where there is none.
        rows_read: Rows of the file.
        rows: Rows among them that belong to the split.
        examples: Examples made.
        notes: Why rows were skipped, or why nothing could be read.
        failed: Whether a file is there but gives no examples.
    """

    task: str
    split: Split
    origin: str
    rows_read: int = 0
    rows: int = 0
    examples: int = 0
    notes: str = ""
    failed: bool = False


def adapter_lines(data_dir: Path, names: Sequence[str]) -> Iterator[AdapterLine]:
    """The lines of these tasks; tasks without a published data set are left out."""
    for name in names:
        task_type = TASKS.get(name)
        if not issubclass(task_type, DatasetTask) or task_type.card.source is None:
            continue
        for split in SPLITS:
            files = [
                file
                for file in task_type.card.source.files.get(split, ())
                if (data_dir / file).is_file()
            ]
            for file in files:
                yield _line_of_file(task_type, split, data_dir, file)
            if not files:
                yield _line_of_folder(task_type, split, data_dir)


def table(lines: Sequence[AdapterLine]) -> str:
    """The lines as a Markdown table."""
    rows = ["| task | split | origin | rows | of the split | examples | left out |"]
    rows.append("| --- | --- | --- | ---: | ---: | ---: | --- |")
    rows += [
        f"| {line.task} | {line.split} | {line.origin} | {line.rows_read} | {line.rows} "
        f"| {line.examples} | {line.notes} |"
        for line in lines
    ]
    return "\n".join(rows)


def _line_of_file(
    task_type: type[DatasetTask], split: Split, data_dir: Path, file: str
) -> AdapterLine:
    """What the task makes of this file alone, as if no other lay beside it."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / file
        link.parent.mkdir(parents=True)
        link.symlink_to((data_dir / file).resolve())
        return _line(task_type(Path(folder)), split, file)


def _line_of_folder(task_type: type[DatasetTask], split: Split, data_dir: Path) -> AdapterLine:
    """What the task makes of a copy of the hub repository, if there is one."""
    task = task_type(data_dir)
    try:
        origin = locate(task.source, split, data_dir)
    except UserError:
        return AdapterLine(task.name, split, "–", notes="no local file: read from the hub")
    return _line(task, split, Path(origin.place).relative_to(data_dir).as_posix())


def _line(task: DatasetTask, split: Split, origin: str) -> AdapterLine:
    try:
        report = task.report(split)
    except UserError as error:
        return AdapterLine(task.name, split, origin, notes=str(error), failed=True)
    notes = ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())
    return AdapterLine(
        task.name, split, origin, report.rows_read, report.rows, report.examples, notes
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a file could not be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data_dir", type=Path, help="folder with local data sets")
    parser.add_argument("tasks", nargs="*", help="task names; all if left out")
    given = parser.parse_args(arguments)
    if not given.data_dir.is_dir():
        parser.error(f"{given.data_dir} is not a folder")
    try:
        lines = list(adapter_lines(given.data_dir, given.tasks or TASKS.names()))
    except UserError as error:
        parser.error(str(error))
    print(table(lines))
    return int(any(line.failed for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
