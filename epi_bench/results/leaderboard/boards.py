"""Two boards: one's own results, and the published ones that they are compared with.

A run goes to the board of its own folder, ``results``. The published board, ``leaderboards``, is
part of a checkout and changes only by ``epi-bench leaderboard submit``, so that trying something
out never changes what was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError, unknown_name
from epi_bench.files import shipped_file
from epi_bench.results.leaderboard.store import PublishedRecords, load_published, load_track
from epi_bench.results.record.run_record import RunRecord

OWN_BOARD = Path("results")
"""One's own results, in the folder where ``epi-bench run`` was called."""

PUBLISHED_BOARD = Path("leaderboards")
"""The published results of a checkout."""


@dataclass(frozen=True)
class TrackRuns:
    """The runs of one track.

    Attributes:
        records: What is ranked.
        published: Published runs beside them; empty where ``records`` are the published ones.
    """

    records: tuple[RunRecord, ...]
    published: tuple[RunRecord, ...] = ()


@dataclass(frozen=True)
class Boards:
    """What is shown together.

    Attributes:
        board: The results; those of a named folder, one's own, or the published ones where there
            are none of one's own.
        published: The published results beside one's own, if there are any.
    """

    board: PublishedRecords
    published: PublishedRecords | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each file that was left out."""
        return self.board.problems + (self.published.problems if self.published else ())

    @property
    def tracks(self) -> Mapping[str, TrackRuns]:
        """The tracks of the board with the published runs of the same ones."""
        beside = self._beside()
        return {
            name: TrackRuns(tuple(records), tuple(beside.get(name, ())))
            for name, records in sorted(self.board.tracks.items())
        }

    def track(self, name: str | None) -> TrackRuns:
        """The runs of one track; those of a track that only the published board has, too.

        Args:
            name: Its name; ``None`` if the board has one track.

        Raises:
            UserError: If there is no such track, or there are several to choose from.
        """
        tracks, beside = self.tracks, self._beside()
        if name is None and len(tracks) == 1:
            return next(iter(tracks.values()))
        if name is None:
            raise UserError(
                f"{self.board.root} holds {len(tracks)} tracks; name one with --track: "
                + ", ".join(tracks)
            )
        if name in tracks:
            return tracks[name]
        if name in beside:
            return TrackRuns(tuple(beside[name]))
        raise unknown_name("track", name, {*tracks, *beside})

    def _beside(self) -> Mapping[str, list[RunRecord]]:
        return self.published.tracks if self.published else {}


def load_boards(folder: Path | None = None) -> Boards:
    """One's own results beside the published ones, or those of a folder.

    Args:
        folder: A board, or the folder of one track; ``None`` for :data:`OWN_BOARD`, and for the
            published board where that holds nothing.

    Raises:
        UserError: If there are no records, or none of them can be read.
    """
    if folder is not None:
        one_track = folder.is_dir() and any(folder.glob("*.json"))
        boards = Boards(load_track(folder) if one_track else load_published(folder))
    else:
        boards = _default_boards()
    if not boards.board.tracks:
        raise UserError(
            f"no readable record in {boards.board.root}: {boards.problems[0]}"
            + (f" (and {len(boards.problems) - 1} more)" if len(boards.problems) > 1 else "")
        )
    return boards


def default_board() -> Path:
    """The folder of one's own results, or of the published ones where there are none.

    Raises:
        UserError: If there are neither.
    """
    published = published_board()
    if _has_records(OWN_BOARD):
        return OWN_BOARD
    if published is not None:
        return published
    raise UserError(
        f"no results yet: neither of your own in {OWN_BOARD} nor published ones in "
        f"{PUBLISHED_BOARD}; make some with `epi-bench run`, or name their folder: "
        "epi-bench leaderboard FOLDER"
    )


def published_board() -> Path | None:
    """The published board: of this folder, else of the checkout that epi-bench runs from.

    An installation that is no checkout has none.
    """
    checkout = shipped_file().resolve().parents[1]
    for folder in (PUBLISHED_BOARD, checkout / PUBLISHED_BOARD):
        if _has_records(folder):
            return folder
    return None


def _default_boards() -> Boards:
    folder, published = default_board(), published_board()
    if folder == published or published is None:
        return Boards(load_published(folder))
    return Boards(load_published(folder), load_published(published))


def _has_records(board: Path) -> bool:
    return board.is_dir() and any(board.glob("*/*.json"))
