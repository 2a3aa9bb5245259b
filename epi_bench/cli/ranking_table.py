"""Rankings on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track, legend
from epi_bench.results.leaderboard.table import ranking_table

if TYPE_CHECKING:
    from rich.console import Console


def print_rankings(rankings: Sequence[Ranking], console: Console) -> None:
    """A table for each ranking and one legend for all."""
    tables = [ranking_table(ranking) for ranking in rankings]
    for position, table in enumerate(tables):
        if position:
            console.print()
        console.print(table.ranking.track, style="bold", highlight=False, markup=False)
        console.print(describe_track(table.ranking), highlight=False, markup=False)
        console.print(table.fitted())
    console.print()
    for line in legend(tables):
        console.print(line, style="dim", highlight=False, markup=False)
