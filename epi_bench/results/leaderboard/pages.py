"""The pages that are rendered from published records, beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from epi_bench.files import one_process_at_a_time, sweep, write_atomically
from epi_bench.foreign_text import for_markdown
from epi_bench.results.leaderboard import (
    PublishedRecords,
    Ranking,
    load_published,
    rank_track,
    to_csv,
)
from epi_bench.results.leaderboard.markdown import to_markdown
from epi_bench.results.leaderboard.table import UNDEFINED
from epi_bench.tables import markdown_row


def rendered_files(published: PublishedRecords) -> dict[Path, str]:
    """The tables that belong beside the records, by their path below the folder.

    ``README.md`` lists the tracks; each track's folder gets a ``README.md`` and ``results.csv``.
    """
    rankings = [rank_track(records) for _, records in sorted(published.tracks.items())]
    files = {Path("README.md"): _index(rankings)}
    for ranking in rankings:
        page = to_markdown(ranking, level=1) + f"\n{_GENERATED}\n"
        files[Path(ranking.track) / "README.md"] = page
        files[Path(ranking.track) / "results.csv"] = to_csv([ranking])
    return files


def write_rendered_files(published: PublishedRecords) -> list[Path]:
    """Write :func:`rendered_files`; only files whose text changed are touched and returned.

    One process at a time does so, and reads what others have published meanwhile: whoever is the
    last to write has seen everything.

    Args:
        published: What was read from the folder of all tracks.
    """
    changed = []
    with one_process_at_a_time(published.root):
        for relative, text in rendered_files(load_published(published.root)).items():
            path = published.root / relative
            sweep(path.parent)
            if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
                write_atomically(path, text)
                changed.append(path)
    return changed


_GENERATED = "Made from the records in this folder by `epi-bench leaderboard --update`."


def _index(rankings: Sequence[Ranking]) -> str:
    lines = [
        "# Leaderboards",
        "",
        "A track holds runs that may be compared: same model, tasks, budget, stream and scoring.",
        "",
        markdown_row(["track", "model", "stream", "tasks", "strategies", "runs", "first"]),
        markdown_row([":---", ":---", ":---", "---:", "---:", "---:", ":---"]),
    ]
    for ranking in rankings:
        facts = ranking.facts
        firsts = [entry.label for entry in ranking.entries if entry.rank == 1]
        first = firsts[0] if len(firsts) == 1 else f"{len(firsts)} share the first rank"
        lines.append(
            markdown_row(
                [
                    f"[{for_markdown(ranking.track)}]({quote(ranking.track, safe='+')}/README.md)",
                    for_markdown(facts.model),
                    for_markdown(facts.stream),
                    str(len(facts.tasks)),
                    str(len(ranking.entries)),
                    str(sum(entry.runs for entry in ranking.entries)),
                    for_markdown(first) if firsts else UNDEFINED,
                ]
            )
        )
    return "\n".join([*lines, "", _GENERATED]) + "\n"
