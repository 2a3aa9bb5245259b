"""The folder of published records: ``<root>/<track>/<run_id>.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.files import remove_left_temporaries
from epi_bench.results.record.record_file import load_record, save_record
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

    A record with the same run id is replaced.

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
    save_record(record, path)
    remove_left_temporaries(path.parent)
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
    tracks: dict[str, list[RunRecord]] = {}
    problems = []
    for path in files:
        try:
            record = load_placed(path)
        except UserError as error:
            problems.append(str(error))
            continue
        tracks.setdefault(record.track.name, []).append(record)
    return PublishedRecords(root, tracks, tuple(problems))


_REMEDY = "make results with `epi-bench run`, or name their folder: epi-bench leaderboard FOLDER"


def load_placed(path: Path) -> RunRecord:
    """A published record, whose file must lie where its content belongs.

    Raises:
        UserError: If the run is not finished, or the file lies elsewhere.
    """
    record = load_record(path)
    if record.status != "finished":
        raise UserError(f"{path}: the run {record.status}, so it is not ranked")
    place = Path(record.track.name) / f"{record.run_id}.json"
    if Path(path.parent.name) / path.name != place:
        raise UserError(f"{path} is misplaced: its content belongs to {place}")
    return record
