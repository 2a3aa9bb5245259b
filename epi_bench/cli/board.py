"""Choosing one track of a folder of published records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from epi_bench.results.record.run_record import RunRecord

BoardFolder = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER", help="Folder of a track's records, or of all tracks with --track."
    ),
]
TrackName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The track, where the folder holds several.")
]


def records_of_track(board: Path, track: str | None) -> list[RunRecord]:
    """The records of one track; files that are not valid records are left out, with a warning.

    Args:
        board: Folder of the track's records, or of all tracks.
        track: Its name; ``None`` if the folder holds a single one.

    Raises:
        UserError: If there is no record, no such track, or several to choose from.
    """
    from epi_bench.errors import UserError, unknown_name
    from epi_bench.results.leaderboard import load_published, load_track

    one_track = board.is_dir() and any(board.glob("*.json"))
    published = load_track(board) if one_track else load_published(board)
    for problem in published.problems:
        warn_of_file(problem)
    if not published.tracks:
        raise UserError(f"no readable record in {board}: the warnings above name the files to fix")
    if track is None and len(published.tracks) == 1:
        track = next(iter(published.tracks))
    if track is None:
        raise UserError(
            f"{board} holds {len(published.tracks)} tracks; name one with --track: "
            + ", ".join(sorted(published.tracks))
        )
    if track not in published.tracks:
        raise unknown_name("track", track, published.tracks)
    return published.tracks[track]


def warn_of_file(problem: str) -> None:
    """Say in a line that a file was left out, and why."""
    typer.echo(f"epi-bench: warning: {problem}", err=True)
