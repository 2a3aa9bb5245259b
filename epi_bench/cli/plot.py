"""``epi-bench plot matrix|balance``: figures of a track."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from epi_bench.cli.board import BoardFolder, TrackName, runs_of_track
from epi_bench.cli.printing import say

plot_app = typer.Typer(help="Draw figures of published runs.", no_args_is_help=True)


class PageTheme(StrEnum):
    """The page that a figure is shown on."""

    LIGHT = "light"
    DARK = "dark"


OutputFile = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="Draw into this file: .png, .svg or .pdf.")
]
ThemeOption = Annotated[
    PageTheme, typer.Option(help="Letters for a light or a dark page; the ground is transparent.")
]


@plot_app.command("matrix")
def plot_matrix(
    strategies: Annotated[
        list[str], typer.Argument(metavar="STRATEGY [STRATEGY]", help="One strategy or two.")
    ],
    output: OutputFile,
    board: BoardFolder = None,
    track: TrackName = None,
    theme: ThemeOption = PageTheme.LIGHT,
) -> None:
    """Draw score matrices: each task's score after each task was trained.

    A strategy's matrix is the mean of its runs. Where they train the tasks in
    different orders, the tasks are shown by their position. A white frame is
    around what was just learned.
    """
    from epi_bench.results.leaderboard.figure import draw_score_matrices

    runs = runs_of_track(board, track)
    draw_score_matrices(runs.records, strategies, output, theme.value, runs.published)
    say(f"figure: {output}")


@plot_app.command("balance")
def plot_balance(
    output: OutputFile,
    strategies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STRATEGY]...", help="Strategies drawn in colour."),
    ] = None,
    board: BoardFolder = None,
    track: TrackName = None,
    theme: ThemeOption = PageTheme.LIGHT,
) -> None:
    """Draw what every strategy learns against what it keeps."""
    from epi_bench.results.leaderboard.figure import draw_balance

    runs = runs_of_track(board, track)
    draw_balance(runs.records, strategies or (), output, theme.value, runs.published)
    say(f"figure: {output}")
