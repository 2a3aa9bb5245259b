"""What is wrong with records, file by file and field by field."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.leaderboard.store import lies_at, misplaced_reason
from epi_bench.results.record.consistency import DamagedRecordError
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file.

    Attributes:
        file: The record's file.
        field: Where in the record, such as ``metrics.average_accuracy``; empty if the file as a
            whole is wrong.
        written: What the record says there.
        recomputed: What follows from the rest of it, or which values there may be.
        problem: What is wrong, in words.
    """

    file: Path
    field: str
    written: str
    recomputed: str
    problem: str


@dataclass(frozen=True)
class Validation:
    """What became of the files that were looked at.

    Attributes:
        files: All of them.
        findings: What is wrong, in order of the files; empty if nothing is.
    """

    files: tuple[Path, ...]
    findings: tuple[Finding, ...]


def validate_records(folder: Path) -> Validation:
    """Check every record of a folder.

    Args:
        folder: A board, the folder of one of its tracks, a folder of runs, the folder of one run,
            or a record's file. On a board a record must also lie where its content belongs.

    Raises:
        UserError: If there is no record to check.
    """
    if not folder.is_dir():
        files, on_board = ([folder] if os.path.lexists(folder) else []), False
    else:
        files, on_board = record_files(folder)
    if not files:
        raise UserError(f"no records in {folder}: name a board, a folder of runs or a record")
    return Validation(tuple(files), tuple(_findings(files, on_board)))


def record_files(folder: Path) -> tuple[list[Path], bool]:
    """The records of a folder, and whether it is a board or the folder of a track."""
    runs = sorted(folder.glob("record.json")) or sorted(folder.glob("*/record.json"))
    if runs:
        return runs, False
    if folder.name in ("", ".."):  # the folder's name is the track's
        folder = folder.resolve()
    return sorted(folder.glob("*.json")) or sorted(folder.glob("*/*.json")), True


def _findings(files: Sequence[Path], on_board: bool) -> Iterator[Finding]:
    records: dict[Path, RunRecord] = {}
    wrong: dict[Path, list[Finding]] = {}
    for path in files:
        try:
            records[path] = load_record(path)
        except DamagedRecordError as error:
            wrong[path] = list(_of_damage(path, error))
        except UserError as error:
            wrong[path] = [_of_file(path, str(error))]
    placed = {r.run_id: r for path, r in records.items() if lies_at(path, r)}
    for path, record in records.items() if on_board else ():
        if record.status != "finished":
            wrong[path] = [_of_file(path, f"the run {record.status}, so it is not ranked")]
        elif not lies_at(path, record):
            reason = misplaced_reason(path, record, placed.get(record.run_id))
            wrong[path] = [_of_file(path, reason)]
    first: dict[str, Path] = {}
    for path, record in () if on_board else records.items():
        other = first.setdefault(record.run_id, path)
        if other != path:
            wrong[path] = [_of_file(path, f"is of run {record.run_id}, as {other} is")]
    for path in sorted(wrong):
        yield from wrong[path]


def _of_damage(path: Path, error: DamagedRecordError) -> Iterator[Finding]:
    if not error.disagreements:
        yield _of_file(path, error.problem)
    invalid = error.problem.startswith("not a valid")
    problem = "not as the schema says" if invalid else "contradicts the rest of the record"
    for found in error.disagreements:
        yield Finding(path, found.field, found.written, found.recomputed, problem)


def _of_file(path: Path, problem: str) -> Finding:
    return Finding(path, "", "", "", problem.removeprefix(f"{path}: ").removeprefix(f"{path} "))
