"""Write the README's results tables from the published records.

python scripts/write_readme_results.py            # then: pytest tests/test_published.py
"""

from __future__ import annotations

from pathlib import Path

from epi_bench.foreign_text import markdown_code
from epi_bench.results.leaderboard import Ranking, load_published, rank_track
from epi_bench.results.metrics.statistics import Interval
from epi_bench.strategy.strategy import STRATEGIES, create_strategy

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results -->", "<!-- /results -->"
SHOWN = {
    "sequential": ("average_accuracy", "backward_transfer", "learning_accuracy"),
    "mixed": ("average_accuracy", "interference"),
}
"""Stream kind -> the measures that its table shows."""

TITLES = {
    "average_accuracy": "average accuracy",
    "backward_transfer": "backward transfer",
    "learning_accuracy": "learning accuracy",
    "interference": "interference",
}


def results_section(root: Path = ROOT) -> str:
    """The text between the README's marks: one table for each stream of the embedded suite."""
    published = load_published(root / "leaderboards")
    parts = []
    shown: set[str] = set()
    for kind, measures in SHOWN.items():
        (track,) = (name for name in published.tracks if name.startswith(f"mini-tiny-{kind}-"))
        ranking = rank_track(published.tracks[track])
        parts.append(_table(kind, ranking, measures))
        shown |= {record.strategy.name for record in published.tracks[track]}
        if kind == "mixed" and (idle := _idle(shown)):
            parts.append(
                f"{', '.join(f'`{name}`' for name in idle)} act from the second experience on: on "
                "a stream of one they are `full_sft` and were not run."
            )
    return "\n\n".join(parts)


def _idle(published: set[str]) -> list[str]:
    """Published strategies that are full fine-tuning on a stream of one experience."""
    builtin = [name for name in STRATEGIES.names() if name in published]
    return [name for name in builtin if create_strategy(name, {}).acts_from >= 1]


def with_results(text: str, section: str) -> str:
    """The README's text with its results replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def _table(kind: str, ranking: Ranking, measures: tuple[str, ...]) -> str:
    runs = sorted({len(entry.pairs) for entry in ranking.entries})
    seeds = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    lines = [
        f"**{kind.capitalize()} stream** ({seeds} seeds, each with its own task order; "
        f"[all columns](leaderboards/{ranking.track}/README.md)):",
        "",
        f"| strategy | {' | '.join(TITLES[name] for name in measures)} |",
        f"| --- | {' | '.join('---:' for _ in measures)} |",
    ]
    for entry in ranking.entries:
        cells = (_cell(entry.values[name]) for name in measures)
        lines.append(f"| {markdown_code(entry.label)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.half_width is None:
        return f"{interval.mean:.1f}"
    return f"{interval.mean:.1f} ± {interval.half_width:.1f}"


def main() -> None:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(with_results(text, results_section()), encoding="utf-8")


if __name__ == "__main__":
    main()
