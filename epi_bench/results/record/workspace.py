"""Where a run's files go, and how they get there whole.

``<out>/runs/<run_id>/`` holds ``run.toml`` (the file that repeats the run), ``events.jsonl`` and
``record.json``, with ``--log-predictions`` also ``predictions.jsonl``, and until the record is
written ``checkpoints/``;
``<out>/leaderboards/<track>/<run_id>.json`` is the published copy of the record.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord


@dataclass(frozen=True)
class Workspace:
    """The folder that results are written to.

    Attributes:
        out: Holds ``runs`` and ``leaderboards``.
    """

    out: Path

    @property
    def leaderboards(self) -> Path:
        """The published records."""
        return self.out / "leaderboards"

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
        if self.finished_record(run_id) is None:
            for result in (self.record_path(run_id), self.predictions_path(run_id)):
                result.unlink(missing_ok=True)
        (folder / "run.toml").write_text(toml, encoding="utf-8")

    def finished_record(self, run_id: str) -> RunRecord | None:
        """The record of a run that is complete already, else ``None``."""
        path = self.record_path(run_id)
        if not path.is_file():
            return None
        record = load_record(path)
        return record if record.status == "finished" else None

    def check_writable(self) -> None:
        """Find out now, not after an hour of training, whether results can be written.

        Raises:
            UserError: If they cannot.
        """
        require_writable(self.out, "results", "out")


def require_writable(folder: Path, what: str, argument: str) -> None:
    """Find out whether a folder, which need not be there yet, can be written to.

    Args:
        folder: Where to.
        what: Is written, for the message.
        argument: That names another folder.

    Raises:
        UserError: If it cannot.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, "not a folder")
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
