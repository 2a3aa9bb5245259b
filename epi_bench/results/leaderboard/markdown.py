"""A ranking as a Markdown table."""

from __future__ import annotations

from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track, legend
from epi_bench.results.leaderboard.table import BEST, ranking_table
from epi_bench.results.tables import markdown_row


def to_markdown(ranking: Ranking, level: int = 2) -> str:
    """A section with the table and its legend.

    Args:
        ranking: What is shown.
        level: Of the heading.
    """
    table = ranking_table(ranking)
    columns = table.columns
    lines = [f"{'#' * level} {ranking.track}", "", describe_track(ranking), ""]
    lines.append(markdown_row([column.title for column in columns]))
    lines.append(markdown_row(["---:" if column.numeric else ":---" for column in columns]))
    for row in range(len(ranking.entries)):
        lines.append(
            markdown_row(
                [f"**{c.cells[row]}** {BEST}" if c.best[row] else c.cells[row] for c in columns]
            )
        )
    lines += ["", *(f"- {line}" for line in legend([table]))]
    return "\n".join(lines) + "\n"
