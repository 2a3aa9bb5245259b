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
    from epi_bench.cli.printing import complain
    from epi_bench.errors import UserError, unknown_name
    from epi_bench.results.leaderboard import load_published

    one_track = board.is_dir() and any(board.glob("*.json"))
    published = load_published(board.resolve().parent if one_track else board)
    name = board.resolve().name if one_track and track is None else track
    for problem in published.problems:
        if not one_track or f"{board.resolve()}/" in problem:
            complain(f"warning: {problem}")
    if name is None and len(published.tracks) == 1:
        name = next(iter(published.tracks))
    if name is None:
        raise UserError(
            f"{board} holds {len(published.tracks)} tracks; name one with --track: "
            + ", ".join(sorted(published.tracks))
        )
    if name not in published.tracks:
        raise unknown_name("track", name, published.tracks)
    return published.tracks[name]
