"""The command ``epi-bench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.output import OutputFormat
from epi_bench.cli.printing import complain, put, say

if TYPE_CHECKING:
    from epi_bench.results.leaderboard import PublishedRecords, Ranking


def leaderboard(
    path: Annotated[
        Path, typer.Argument(help="Folder of published records: <track>/<run_id>.json.")
    ] = Path("leaderboards"),
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
            help="Rewrite README.md and results.csv beside the records of all tracks, ranked by "
            "average accuracy.",
        ),
    ] = False,
) -> None:
    """Rank the published runs, track by track.

    Runs of one strategy with the same settings are averaged over seeds and
    task orders and shown with a 95 % interval. Strategies that a paired test
    cannot tell apart share a rank. Only runs of one track (same model, tasks,
    budget, stream and scoring) are ranked together.

    Files that are not valid records are left out, with one warning line each.
    """
    from epi_bench.errors import UserError, unknown_name
    from epi_bench.results.leaderboard import find_measure, load_published, rank_track

    find_measure(sort)
    published = load_published(path)
    for problem in published.problems:
        complain(f"warning: {problem}")
    if not published.tracks:
        raise UserError(f"no readable record in {path}: the warnings above name the files to fix")
    if track is not None and track not in published.tracks:
        raise unknown_name("track", track, published.tracks)
    if update:
        _update(published)
        return
    names = sorted(published.tracks) if track is None else [track]
    _show([rank_track(published.tracks[name], sort) for name in names], output_format, output)


def _update(published: PublishedRecords) -> None:
    from epi_bench.results.leaderboard.pages import write_rendered_files

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
