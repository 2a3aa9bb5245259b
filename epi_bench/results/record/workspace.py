"""Where a run's files go, and how they get there whole.

``<out>/runs/<run_id>/`` holds ``run.toml`` (the file that repeats the run), ``events.jsonl`` and
``record.json``, with ``--log-predictions`` also ``predictions.jsonl``, with ``--keep-model`` also
``models/`` and, where an adapter was trained, ``adapters/``, and until the record is written
``checkpoints/``;
``<out>/results/<track>/<run_id>.json`` is a copy of the record, on the board of one's own results.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.files import write_atomically
from epi_bench.results.record.consistency import DamagedRecordError
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord


@dataclass(frozen=True)
class Workspace:
    """The folder that results are written to.

    Attributes:
        out: Holds ``runs`` and ``results``.
    """

    out: Path

    @property
    def board(self) -> Path:
        """The records that ``epi-bench leaderboard`` ranks, by track."""
        return self.out / "results"

    def run_folder(self, run_id: str) -> Path:
        """The folder of one run."""
        return self.out / "runs" / run_id

    def record_path(self, run_id: str) -> Path:
        """The record of one run."""
        return self.run_folder(run_id) / "record.json"

    def events_path(self, run_id: str) -> Path:
        """What happened in one run, as it was reported while it went on."""
        return self.run_folder(run_id) / "events.jsonl"

    def predictions_path(self, run_id: str) -> Path:
        """What the finished model of one run said to each test item, if that was asked for."""
        return self.run_folder(run_id) / "predictions.jsonl"

    def checkpoints_path(self, run_id: str) -> Path:
        """What one run needs to go on, until its record is written."""
        return self.run_folder(run_id) / "checkpoints"

    def models_folder(self, run_id: str) -> Path:
        """The trained models of one run, if it was asked to keep any."""
        return self.run_folder(run_id) / "models"

    def begin(self, run_id: str, toml: str) -> None:
        """Make the folder of a run that is about to be trained.

        What a finished run left stays until the new results replace it; the record of a failed one
        goes.

        Args:
            run_id: The run.
            toml: Text of its ``run.toml``.
        """
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            is_finished = self.finished_record(run_id) is not None
        except DamagedRecordError:
            is_finished = False
        if not is_finished:
            for result in (self.record_path(run_id), self.predictions_path(run_id)):
                result.unlink(missing_ok=True)
        write_atomically(folder / "run.toml", toml)

    def known_record(self, run_id: str) -> RunRecord | None:
        """The record of a run that was made already, whether it finished or failed."""
        path = self.record_path(run_id)
        return load_record(path) if path.is_file() else None

    def finished_record(self, run_id: str) -> RunRecord | None:
        """The record of a run that is complete already, else ``None``.

        Raises:
            DamagedRecordError: If its file is there and cannot be believed.
            UserError: If its file cannot be read, or a newer version wrote it.
        """
        record = self.known_record(run_id)
        return record if record is not None and record.status == "finished" else None

    def check_writable(self) -> None:
        """Find out now, not after an hour of training, whether results can be written.

        Raises:
            UserError: If they cannot.
        """
        require_writable(self.out / "runs", "results", "out")


def require_writable(folder: Path, what: str, argument: str) -> None:
    """Find out whether a folder, which need not be there yet, can be written to.

    Args:
        folder: Where to.
        what: Is written, for the message.
        argument: That names another folder.

    Raises:
        UserError: If it cannot.
    """
    try:
        existing = _nearest_folder(folder.absolute())
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * 65536)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {folder}: {error.strerror}; choose another folder with "
            f"{argument}",
            setting=argument,
        ) from error


ROOM_FOR_NAMES = 300
"""Bytes that the names of a run's files take below the folder of results."""


def _nearest_folder(folder: Path) -> Path:
    """The folder itself or the one nearest above it that exists.

    Raises:
        OSError: If the folders between could not be made.
    """
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            if not place.is_dir():  # among them a link that leads nowhere
                raise NotADirectoryError(errno.ENOTDIR, "not a folder")
            _check_names(folder, place)
            return place
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _check_names(folder: Path, existing: Path) -> None:
    """Whether the file system takes the names of the folders that are to be made."""
    if not hasattr(os, "pathconf"):  # Windows, which says so when the first is made
        return
    missing = [len(os.fsencode(name)) for name in folder.relative_to(existing).parts]
    room = os.pathconf(existing, "PC_PATH_MAX") - len(os.fsencode(folder))
    if max(missing, default=0) > os.pathconf(existing, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if missing and room < ROOM_FOR_NAMES:
        raise OSError(errno.ENAMETOOLONG, "path too long")
