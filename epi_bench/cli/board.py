"""Choosing what is ranked and compared: a folder, or one's own results and the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.printing import complain

if TYPE_CHECKING:
    from epi_bench.results.leaderboard import Boards, TrackRuns

BoardFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A board, or the folder of one of its tracks. Left out: ./results with the published "
        "runs of the same track beside them; where there are none, the published ones.",
        show_default=False,
    ),
]
TrackName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The track, where the folder holds several.")
]


def boards_of(folder: Path | None) -> Boards:
    """What is shown together; files that are no valid records are left out, with a warning.

    Args:
        folder: A board, or the folder of one track; ``None`` for one's own and the published.

    Raises:
        UserError: If there is no record that can be read.
    """
    from epi_bench.results.leaderboard import load_boards

    boards = load_boards(folder)
    for problem in boards.problems:
        warn_of_file(problem)
    return boards


def runs_of_track(folder: Path | None, track: str | None) -> TrackRuns:
    """The runs of one track.

    Args:
        folder: See :func:`boards_of`.
        track: Its name; ``None`` if there is one.

    Raises:
        UserError: If there is no record, no such track, or several to choose from.
    """
    return boards_of(folder).track(track)


def warn_of_file(problem: str) -> None:
    """Say in a line that a file was left out, and why."""
    complain(f"warning: {problem}")
