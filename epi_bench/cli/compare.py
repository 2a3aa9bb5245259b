"""The command ``epi-bench compare``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.board import BoardFolder, TrackName, runs_of_track
from epi_bench.cli.output import OutputFormat, echo_json
from epi_bench.cli.printing import put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epi_bench.results.leaderboard import ComparedStrategy
    from epi_bench.results.metrics.statistics import Comparison
    from epi_bench.tables import FittedTable


def compare(
    strategy: Annotated[
        str, typer.Argument(metavar="STRATEGY", help="What the others are compared with.")
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OTHER]...", help="The others; all of the track if left out."),
    ] = None,
    board: BoardFolder = None,
    track: TrackName = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Compare this metric or cost; repeatable. Left out: average accuracy, learning "
            "accuracy, backward transfer and forgetting; with eval tasks, task retention.",
        ),
    ] = None,
    output_format: Annotated[
        OutputFormat,
        typer.Option(
            "--format",
            help="CSV and JSON hold every number; markdown is one table with p of one metric.",
        ),
    ] = OutputFormat.TABLE,
) -> None:
    """Compare one strategy with others, paired by seed and task order.

    Shows the mean of the differences (the first strategy minus the other) with
    its 95 % interval, and p of the paired t-test, as it is and Holm-corrected
    over the strategies of the table. The leaderboard's ranks correct over all
    pairs of strategies and are therefore stricter.

    With one common seed there is no test over seeds; average accuracy is then
    compared on the test items (bootstrap), which says nothing of other seeds.

    A strategy that was run with several settings is named by its label in the
    leaderboard, such as "epi (ratio=0.3)". Published runs beside one's own are
    compared as well: "epi (published)" is the published one.
    """
    from epi_bench.results.leaderboard import (
        compare_with_others,
        compared_measures,
        comparisons_to_csv,
        comparisons_to_json,
        find_label,
        group_by_configuration,
    )
    from epi_bench.tables import make_console

    runs = runs_of_track(board, track)
    label = find_label(group_by_configuration(runs.records, runs.published), strategy)
    metrics = metric or compared_measures(runs.records)
    compared = compare_with_others(runs.records, label, others or (), metrics, runs.published)
    if output_format is OutputFormat.CSV:
        put(comparisons_to_csv(label, compared))
    elif output_format is OutputFormat.JSON:
        echo_json(comparisons_to_json(label, compared))
    elif output_format is OutputFormat.MARKDOWN:
        put(_overview(label, metrics, compared).to_markdown())
    else:
        console = make_console()
        for name in metrics:
            console.print(_table(label, name, compared))
            console.print()
        for line in _legend(compared):
            console.print(line, style="dim", highlight=False, markup=False)


def _table(label: str, metric: str, compared: Sequence[ComparedStrategy]) -> FittedTable:
    from epi_bench.results.leaderboard import find_measure, p_value_text
    from epi_bench.tables import Column, FittedTable

    measure = find_measure(metric)
    found = [(other.label, other.comparisons[metric]) for other in compared]
    columns = [
        Column(f"{label} minus"),
        Column("pairs", numeric=True),
        Column("difference", numeric=True),
        Column("p", numeric=True),
        Column("p, Holm", numeric=True),
    ]
    rows = [
        [
            name,
            str(comparison.n),
            _difference(comparison, measure.divisor, measure.decimals),
            p_value_text(comparison.p_value),
            p_value_text(comparison.adjusted_p_value),
        ]
        for name, comparison in found
    ]
    if any(comparison.items for _, comparison in found):
        columns.append(Column("on the test items", numeric=True))
        for row, (_, comparison) in zip(rows, found, strict=True):
            row.append(_on_items(comparison))
    better = "higher" if measure.higher_is_better else "lower"
    return FittedTable(columns, rows, f"{measure.title} ({better} is better)")


def _overview(
    label: str, metrics: Sequence[str], compared: Sequence[ComparedStrategy]
) -> FittedTable:
    """All metrics in one table for a page: their differences, and p of the first one."""
    from epi_bench.foreign_text import markdown_code
    from epi_bench.results.leaderboard import find_measure, p_value_text
    from epi_bench.tables import Column, FittedTable

    measures = [find_measure(name) for name in metrics]
    titles = ["pairs", *(measure.title for measure in measures), "p", "p, Holm"]
    rows = []
    for other in compared:
        first = other.comparisons[metrics[0]]
        differences = [
            _difference(replace(other.comparisons[m.name], half_width=None), m.divisor, m.decimals)
            for m in measures
        ]
        p_values = [p_value_text(first.p_value), p_value_text(first.adjusted_p_value)]
        rows.append([other.label, str(first.n), *differences, *p_values])
    head = Column(f"{label} minus", code=True, markdown_title=f"{markdown_code(label)} minus")
    columns = [head, *(Column(title, numeric=True) for title in titles)]
    return FittedTable(columns, rows)


def _difference(comparison: Comparison, divisor: float, decimals: int) -> str:
    if comparison.mean_difference is None:
        return "–"
    text = f"{comparison.mean_difference / divisor:+.{decimals}f}"
    if comparison.half_width is not None:
        text += f" ± {comparison.half_width / divisor:.{decimals}f}"
    return text


def _on_items(comparison: Comparison) -> str:
    items = comparison.items
    if items is None:
        return "–"
    return f"{items.mean_difference:+.1f} [{items.low:+.1f}, {items.high:+.1f}] (n = {items.n})"


def _legend(compared: Sequence[ComparedStrategy]) -> list[str]:
    lines = [
        "±: 95 % Student-t interval of the mean difference over the (seed, task order) pairs that "
        f"both have. p: paired t-test; Holm: corrected over the {len(compared)} comparisons of the "
        "table. – undefined."
    ]
    if any(c.items for other in compared for c in other.comparisons.values()):
        lines.append(
            "On the test items: bootstrap interval of the difference of two single runs; it says "
            "nothing about other seeds."
        )
    return lines
