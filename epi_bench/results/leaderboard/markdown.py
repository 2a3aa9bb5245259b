"""A ranking as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track, legend
from epi_bench.results.leaderboard.table import BEST, table_columns


def to_markdown(ranking: Ranking, level: int = 2) -> str:
    """A section with the table and its legend.

    Args:
        ranking: What is shown.
        level: Of the heading.
    """
    columns = table_columns(ranking)
    lines = [f"{'#' * level} {ranking.track}", "", describe_track(ranking), ""]
    lines.append(markdown_row([column.title for column in columns]))
    lines.append(markdown_row(["---:" if column.numeric else ":---" for column in columns]))
    for row in range(len(ranking.entries)):
        lines.append(
            markdown_row(
                [f"**{c.cells[row]}** {BEST}" if c.best[row] else c.cells[row] for c in columns]
            )
        )
    lines += ["", *(f"- {line}" for line in legend([ranking]))]
    return "\n".join(lines) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
