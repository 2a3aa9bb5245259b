"""The commands ``epi-bench leaderboard ...``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.board import boards_of
from epi_bench.cli.output import OutputFormat, echo_json
from epi_bench.cli.printing import put, say
from epi_bench.cli.record_check import validate
from epi_bench.cli.submission import submit
from epi_bench.cli.usage import group_with_default

if TYPE_CHECKING:
    from epi_bench.results.leaderboard import Ranking

leaderboard_app = typer.Typer(
    cls=group_with_default("show"),
    help="Rank runs, check their records, and publish them. Without a command it is show: "
    "epi-bench leaderboard FOLDER. A folder called like a command is given as ./validate.",
)


@leaderboard_app.command()
def show(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="A board, <track>/<run_id>.json, or the folder of one track. Left out: ./results "
            "with the published runs of the same tracks beside them; where there are none, the "
            "published ones.",
            show_default=False,
        ),
    ] = None,
    track: Annotated[str | None, typer.Option(metavar="NAME", help="Show this track only.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="Rank by this metric or cost, such as forgetting or training_seconds.",
        ),
    ] = "average_accuracy",
    output_format: Annotated[
        OutputFormat,
        typer.Option(
            "--format",
            help="CSV and JSON hold every metric, interval and count; JSON also the tests.",
        ),
    ] = OutputFormat.TABLE,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write to this file instead of the terminal."),
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Rewrite README.md and results.csv beside the folder's records, ranked by "
            "average accuracy.",
        ),
    ] = False,
) -> None:
    """Rank runs, track by track.

    Your own results are shown with the published runs of the same track beside
    them, marked as published.

    Runs of one strategy with the same settings are averaged over seeds and
    task orders and shown with a 95 % interval. Strategies that a paired test
    cannot tell apart share a rank. Only runs of one track (same model, tasks,
    budget, stream and scoring) are ranked together.

    Files that are not valid records are left out, with one warning line each.
    """
    from epi_bench.results.leaderboard import find_measure, rank_track

    find_measure(sort)
    if update:
        _update(path)
        return
    boards = boards_of(path)
    shown = boards.tracks.values() if track is None else [boards.track(track)]
    rankings = [rank_track(runs.records, sort, runs.published) for runs in shown]
    _show(rankings, output_format, output)


def _update(folder: Path | None) -> None:
    from epi_bench.cli.board import warn_of_file
    from epi_bench.errors import UserError
    from epi_bench.results.leaderboard import OWN_BOARD, PUBLISHED_BOARD, load_published
    from epi_bench.results.leaderboard.pages import write_rendered_files

    if folder is None:
        folder = OWN_BOARD if OWN_BOARD.is_dir() else PUBLISHED_BOARD
    published = load_published(folder)
    for problem in published.problems:
        warn_of_file(problem)
    if not published.tracks:
        raise UserError(f"no readable record in {folder}: the warnings above name the files to fix")
    changed = write_rendered_files(published)
    for path in changed:
        say(f"wrote {path}")
    if not changed:
        say(f"the tables in {published.root} are up to date")


def _show(rankings: list[Ranking], output_format: OutputFormat, output: Path | None) -> None:
    """Print the rankings, or write them to a file."""
    if output is None and output_format is OutputFormat.TABLE:
        from epi_bench.cli.ranking_table import print_rankings
        from epi_bench.tables import make_console

        print_rankings(rankings, make_console())
        return
    text = _as_text(rankings, output_format)
    if output is None and output_format is OutputFormat.JSON:
        echo_json(text)
        return
    if output is None:
        put(text)
        return
    from epi_bench.files import write_atomically

    write_atomically(output, text)
    say(f"wrote {output}", aside=True)


def _as_text(rankings: list[Ranking], output_format: OutputFormat) -> str:
    from io import StringIO

    from epi_bench.cli.ranking_table import print_rankings
    from epi_bench.results.leaderboard import to_csv, to_json
    from epi_bench.results.leaderboard.markdown import to_markdown
    from epi_bench.tables import UNLIMITED, make_console

    if output_format is OutputFormat.CSV:
        return to_csv(rankings)
    if output_format is OutputFormat.JSON:
        return to_json(rankings)
    if output_format is OutputFormat.MARKDOWN:
        return "\n".join(to_markdown(ranking) for ranking in rankings)
    text = StringIO()
    print_rankings(rankings, make_console(file=text, width=UNLIMITED))
    return text.getvalue()


leaderboard_app.command()(validate)
leaderboard_app.command()(submit)
