"""The folder of published records: ``<root>/<track>/<run_id>.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.files import sweep, write_atomically
from epi_bench.results.record.record_file import comparable, load_record, record_to_json
from epi_bench.results.record.run_record import RunRecord


@dataclass(frozen=True)
class PublishedRecords:
    """What a folder of published records holds.

    Attributes:
        root: The folder.
        tracks: The records of each track, by the track's name, in order of run id.
        problems: One line for each file that was left out, with its reason.
    """

    root: Path
    tracks: dict[str, list[RunRecord]]
    problems: tuple[str, ...]


def publish(record: RunRecord, root: Path) -> Path:
    """Write a finished run's record into the folder of its track.

    A record with the same run id is replaced; one that is there as it is, is not touched.

    Args:
        record: The run.
        root: Folder of all tracks; made if it does not exist.

    Returns:
        The record's file.

    Raises:
        UserError: If the run is not finished, or the file cannot be written.
    """
    if record.status != "finished":
        raise UserError(f"run {record.run_id} {record.status}: only finished runs are published")
    path = root / record.track.name / f"{record.run_id}.json"
    text = record_to_json(record)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_atomically(path, text)
    sweep(path.parent)
    return path


def load_published(root: Path) -> PublishedRecords:
    """Every published record below a folder; what is broken or misplaced is left out.

    Raises:
        UserError: If the folder is missing or holds no record at all.
    """
    if not root.is_dir():
        raise UserError(f"no leaderboards in {root}: the folder does not exist; {_REMEDY}")
    files = sorted(root.glob("*/*.json"))
    if not files:
        if any(root.glob("*.json")):
            raise UserError(
                f"{root} is the folder of one track: give its parent folder, {root.parent}"
            )
        raise UserError(f"no leaderboards in {root}: it holds no records; {_REMEDY}")
    return _load(root, files)


def load_track(folder: Path) -> PublishedRecords:
    """The same for the folder of one track, which is all that is read.

    Raises:
        UserError: If the folder is missing or holds no record at all.
    """
    if folder.name in ("", ".."):  # the folder's name is the track's
        folder = folder.resolve()
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"no records in {folder}; {_REMEDY}")
    return _load(folder.parent, files)


_REMEDY = "make results with `epi-bench run`, or name their folder: epi-bench leaderboard FOLDER"


def _load(root: Path, files: Sequence[Path]) -> PublishedRecords:
    placed: dict[Path, RunRecord] = {}
    misplaced: dict[Path, RunRecord] = {}
    problems: dict[Path, str] = {}
    for path in files:
        try:
            record = load_finished(path)
        except UserError as error:
            problems[path] = str(error)
            continue
        (placed if lies_at(path, record) else misplaced)[path] = record
    by_place = {_place(record): record for record in placed.values()}
    for path, record in misplaced.items():
        problems[path] = misplaced_reason(path, record, by_place.get(_place(record)))
    tracks: dict[str, list[RunRecord]] = {}
    for record in placed.values():
        tracks.setdefault(record.track.name, []).append(record)
    return PublishedRecords(root, tracks, tuple(problems[path] for path in sorted(problems)))


def load_finished(path: Path) -> RunRecord:
    """A record that can be ranked.

    Raises:
        UserError: If it cannot be read or believed, or the run is not finished.
    """
    record = load_record(path)
    if record.status != "finished":
        raise UserError(f"{path}: the run {record.status}, so it is not ranked")
    return record


def misplaced_reason(path: Path, record: RunRecord, there: RunRecord | None) -> str:
    """Why a record is not ranked that lies elsewhere than its content belongs.

    Args:
        path: Where it lies.
        record: What it says.
        there: The record that lies where this one belongs, if there is one.
    """
    told = f"{path} is misplaced: its content belongs to {_place(record)}"
    if there is None:
        return told
    if comparable(there) == comparable(record):
        return f"{told}, where the same run lies already"
    return f"{told}, where another record of this run gives other numbers"


def _place(record: RunRecord) -> Path:
    return Path(record.track.name) / f"{record.run_id}.json"


def lies_at(path: Path, record: RunRecord) -> bool:
    """Whether a file lies where its content belongs: ``<track>/<run_id>.json``."""
    return Path(path.parent.name) / path.name == _place(record)
