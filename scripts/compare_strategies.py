"""One strategy against every other of a track, paired by seed and task order.

    python scripts/compare_strategies.py leaderboards/TRACK epi_consolidated

Differences are the first strategy's minus the other's, over the (seed, task order) pairs that both
have; p of the paired t-test on average accuracy is Holm-corrected over the table's comparisons. The
leaderboard's ranks correct over all pairs of strategies and are therefore stricter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from epi_bench.results.leaderboard import find_measure, load_published
from epi_bench.results.metrics.statistics import Comparison, compare, holm
from epi_bench.results.record.run_record import RunRecord

MEASURES = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting")

Pair = tuple[int, tuple[str, ...]]


def values(records: list[RunRecord], measure: str) -> dict[str, dict[Pair, float]]:
    """For each strategy the measure of each (seed, task order)."""
    by_strategy: dict[str, dict[Pair, float]] = {}
    for record in records:
        value = find_measure(measure).of(record)
        if value is not None:
            pair = (record.spec.seed, tuple(record.task_order))
            by_strategy.setdefault(record.strategy.name, {})[pair] = value
    return by_strategy


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("track", type=Path, help="folder of a track's records")
    parser.add_argument("strategy", help="the one that all others are compared with")
    arguments = parser.parse_args()
    published = load_published(arguments.track.parent)
    records = list(published.tracks.get(arguments.track.name, ()))
    measured = {measure: values(records, measure) for measure in MEASURES}
    first = measured["average_accuracy"].get(arguments.strategy)
    if first is None:
        parser.error(f"no record of {arguments.strategy} in {arguments.track}")
    others = [name for name in measured["average_accuracy"] if name != arguments.strategy]
    compared: dict[str, dict[str, Comparison]] = {
        name: {
            measure: compare(table[arguments.strategy], table[name])
            for measure, table in measured.items()
        }
        for name in others
    }
    corrected = dict(
        zip(
            others,
            holm([compared[name]["average_accuracy"].p_value for name in others]),
            strict=True,
        )
    )
    print(f"| `{arguments.strategy}` minus | pairs | " + " | ".join(MEASURES) + " | p | p, Holm |")
    print("| --- | ---: |" + " ---: |" * (len(MEASURES) + 2))
    order = sorted(others, key=lambda name: compared[name]["average_accuracy"].mean_difference or 0)
    for name in order:
        row = compared[name]
        differences = " | ".join(_signed(row[measure].mean_difference) for measure in MEASURES)
        p = row["average_accuracy"].p_value
        print(
            f"| `{name}` | {row['average_accuracy'].n} | {differences} | "
            f"{_p_value(p)} | {_p_value(corrected[name])} |"
        )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


if __name__ == "__main__":
    main()
