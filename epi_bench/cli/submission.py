"""``epi-bench leaderboard submit``: from one's own results to the published board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epi_bench.cli.printing import say


def submit(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD...",
            help="Records, folders of runs (runs/<run_id>), or folders of them.",
        ),
    ],
    board: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The published board that they are for.")
    ] = Path("leaderboards"),
) -> None:
    """Publish records: check them, copy them to the published board, write its tables anew.

    A record must be valid, made from a known commit without changed files and
    by the present training protocol. It must not be on the board yet, and its
    strategy must have every pair of seed and task order that the others of the
    track have. If one record is refused, none is published.
    """
    from epi_bench.errors import UserError
    from epi_bench.results.leaderboard.submission import check_submission, publish_submission

    submission = check_submission(records, board)
    for note in submission.notes:
        say(f"note: {note}", aside=True)
    if submission.refused:
        for path, reason in submission.refused.items():
            say(f"refused {path}: {reason}", aside=True)
        total = len(submission.refused) + len(submission.accepted)
        raise UserError(
            f"nothing was published: {len(submission.refused)} of {total} record(s) refused, for "
            "the reasons above"
        )
    for path in publish_submission(submission):
        say(f"wrote {path}")
