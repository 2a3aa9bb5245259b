"""What each strategy learned and kept in runs with eval tasks, at equal learning as well.

The runs may be of several tracks, each with another task that is new: a pair is a seed with a
task. Of every strategy the table shows what it learned (average accuracy of the trained task), what
the eval tasks lost, the divergence from the base model, and paired differences in what is kept:

- *against full_sft*: with the same learning rate; who learns less keeps more there;
- *at equal learning*: against full fine-tuning at the learning rate that learned as much. The
  curve goes through the base model and the runs of ``full_sft``, one for each learning rate;
- *WiSE-FT*: against the part of the way from the base model to full fine-tuning that learned as
  much, where a run of ``full_sft`` has its WiSE-FT curve.

    python scripts/keep_table.py mini_keep/keep/runs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, mode

from epi_bench.errors import UserError
from epi_bench.results.leaderboard.comparison import p_value_text
from epi_bench.results.leaderboard.repetitions import Pair, mean_by_pair, pair_of
from epi_bench.results.masks.drift import find_records
from epi_bench.results.metrics.equal_learning import Outcome, kept_at
from epi_bench.results.metrics.statistics import Comparison, compare, holm, mean_interval
from epi_bench.results.record.run_record import RunRecord

BASELINE = "full_sft"

HEADER = (
    "strategy",
    "pairs",
    "learned",
    "retention",
    "worst task",
    "KL to base",
    "against full_sft",
    "p, Holm",
    "at equal learning",
    "p, Holm",
    "WiSE-FT",
    "p, Holm",
)


@dataclass(frozen=True)
class Kept:
    """One strategy's line.

    Attributes:
        label: The strategy with the options that were set.
        records: Its runs.
        against_baseline: Difference in retention to full fine-tuning at its own learning rate.
        at_equal_learning: The same to the curve over learning rates.
        on_the_way: The same to the WiSE-FT curve.
    """

    label: str
    records: Sequence[RunRecord]
    against_baseline: Comparison
    at_equal_learning: Comparison
    on_the_way: Comparison


def kept_by_strategy(records: Sequence[RunRecord]) -> list[Kept]:
    """A line for each strategy, what keeps most at equal learning first.

    Args:
        records: Runs of one trained task each, with eval tasks.

    Raises:
        UserError: If none of them is of full fine-tuning, or a pair has none.
    """
    records = [record for record in records if record.eval_scores is not None]
    groups = _groups(records)
    if BASELINE not in groups:
        raise UserError(f"none of the runs with eval tasks is of {BASELINE} at its defaults")
    curves, ways = _curves(records), _ways(records)
    baseline = mean_by_pair(groups[BASELINE], _measure("task_retention"))
    lines = []
    for label, group in groups.items():
        kept = mean_by_pair(group, _measure("task_retention"))
        learned = mean_by_pair(group, _measure("average_accuracy"))
        at_equal, on_the_way = (
            {pair: kept_at(known[pair], learned[pair]) for pair in kept if pair in known}
            for known in (curves, ways)
        )
        comparisons = (compare(kept, other) for other in (baseline, at_equal, on_the_way))
        lines.append(Kept(label, group, *comparisons))
    return sorted(lines, key=lambda line: -(line.at_equal_learning.mean_difference or 0))


def _groups(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """By strategy, the options that were set, and a learning rate that is not what most have."""
    usual = mode(r.spec.training.learning_rate for r in records) if records else None
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        shown = dict(record.spec.strategy.options)
        if record.spec.training.learning_rate != usual:
            shown["learning_rate"] = record.spec.training.learning_rate
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        label = f"{record.strategy.name} ({settings})" if settings else record.strategy.name
        groups.setdefault(label, []).append(record)
    return groups


def _ways(records: Sequence[RunRecord]) -> dict[Pair, list[Outcome]]:
    """The models from the base model to full fine-tuning, by pair."""
    ways = {}
    for record in records:
        if record.strategy.name == BASELINE and record.wise_ft is not None:
            new = record.wise_ft.tasks.index(record.task_order[0])
            base = record.wise_ft.points[0].values
            ways[pair_of(record)] = [
                Outcome(
                    float(point.values[new] or 0),
                    fmean(
                        float(value or 0) - float(before or 0)
                        for task, (value, before) in enumerate(zip(point.values, base, strict=True))
                        if task != new
                    ),
                )
                for point in record.wise_ft.points
            ]
    return ways


def _curves(records: Sequence[RunRecord]) -> dict[Pair, list[Outcome]]:
    """The base model and full fine-tuning at each learning rate, by pair."""
    curves: dict[Pair, list[Outcome]] = {}
    for record in records:
        if record.strategy.name == BASELINE and record.score_matrix is not None:
            base = fmean(value for value in record.score_matrix.values[0] if value is not None)
            points = curves.setdefault(pair_of(record), [Outcome(base, 0.0)])
            learned, kept = (record.metrics[n] for n in ("average_accuracy", "task_retention"))
            if learned is not None and kept is not None:
                points.append(Outcome(learned, kept))
    return curves


def _measure(name: str) -> Callable[[RunRecord], float | None]:
    return lambda record: record.metrics.get(name)


def table(lines: Sequence[Kept]) -> str:
    """The lines as a Markdown table; p values are corrected over its lines."""
    against = holm([line.against_baseline.p_value for line in lines])
    equal = holm([line.at_equal_learning.p_value for line in lines])
    ways = holm([line.on_the_way.p_value for line in lines])
    rows = [HEADER, ("---", *("---:" for _ in HEADER[1:]))]
    for line, p_against, p_equal, p_way in zip(lines, against, equal, ways, strict=True):
        pairs = len({pair_of(record) for record in line.records})
        rows.append(
            (
                f"`{line.label}`",
                str(pairs),
                *(_mean(line.records, n) for n in ("average_accuracy", "task_retention")),
                *(_mean(line.records, n, 1) for n in ("worst_task_retention",)),
                _mean(line.records, "kl_to_base", 2),
                _difference(line.against_baseline),
                p_value_text(p_against),
                _difference(line.at_equal_learning),
                p_value_text(p_equal),
                _difference(line.on_the_way),
                p_value_text(p_way),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean(records: Sequence[RunRecord], measure: str, decimals: int = 1) -> str:
    interval = mean_interval(list(mean_by_pair(records, _measure(measure)).values()))
    if interval is None:
        return "–"
    half = "" if interval.half_width is None else f" ± {interval.half_width:.{decimals}f}"
    return f"{interval.mean:.{decimals}f}{half}"


def _difference(comparison: Comparison) -> str:
    mean = comparison.mean_difference
    if mean is None:
        return "–"
    half = "" if comparison.half_width is None else f" ± {comparison.half_width:.1f}"
    return f"{mean:+.1f}{half}"


def main() -> None:
    """Print the table of some runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or of a track")
    records = find_records(
        parser.parse_args().runs, left_out=lambda line: print(line, file=sys.stderr)
    )
    print(table(kept_by_strategy([r for r in records if r.status == "finished"])))


if __name__ == "__main__":
    main()
