"""A ranking as a Markdown table."""

from __future__ import annotations

from epi_bench.foreign_text import for_markdown
from epi_bench.results.leaderboard import Ranking
from epi_bench.results.leaderboard.legend import describe_track, legend
from epi_bench.results.leaderboard.table import BEST, ranking_table
from epi_bench.tables import markdown_row


def to_markdown(ranking: Ranking, level: int = 2) -> str:
    """A section with the table and its legend.

    Args:
        ranking: What is shown.
        level: Of the heading.
    """
    table = ranking_table(ranking)
    columns = table.columns
    track = for_markdown(ranking.track)
    lines = [f"{'#' * level} {track}", "", describe_track(ranking, for_markdown), ""]
    lines.append(markdown_row([for_markdown(column.title) for column in columns]))
    lines.append(markdown_row(["---:" if column.numeric else ":---" for column in columns]))
    for row in range(len(ranking.entries)):
        cells = [(for_markdown(column.cells[row]), column.best[row]) for column in columns]
        lines.append(markdown_row([f"**{cell}** {BEST}" if best else cell for cell, best in cells]))
    lines += ["", *(f"- {line}" for line in legend([table], for_markdown))]
    return "\n".join(lines) + "\n"
