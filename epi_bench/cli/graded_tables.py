"""The tables of ``epi-bench inspect`` about graded protection: where in the model it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epi_bench.results.masks.graded import GradedTrace
    from epi_bench.tables import FittedTable

WHAT = (
    "which part of the model weights were drawn back in (share of all stiffness, 0 to 1), beside "
    "the part's share of the weights"
)


def graded_table(run: str, trace: GradedTrace) -> FittedTable:
    """Of one run: a row for each part, a column for each experience.

    Args:
        run: What it is called.
        trace: Its shares.
    """
    from epi_bench.tables import Column, FittedTable

    return FittedTable(
        [
            Column("part"),
            Column("weights", numeric=True),
            *(Column(name, numeric=True) for name in trace.experiences),
        ],
        [
            (_name(part.name), f"{part.weights:.3f}", *(f"{s:.3f}" for s in part.stiffness))
            for part in trace.parts
        ],
        f"{run}: {WHAT}",
        keys=2,
    )


def graded_runs_table(heading: str, traces: Sequence[GradedTrace]) -> FittedTable:
    """Of several runs of one configuration: the shares in their last experience.

    Args:
        heading: What the configuration is called.
        traces: At least one.
    """
    from epi_bench.tables import Column, FittedTable

    rows = []
    for part in traces[0].parts:
        found = [p for trace in traces for p in trace.parts if p.name == part.name]
        last = [p.stiffness[-1] for p in found]
        numbers = (part.weights, sum(last) / len(last), min(last), max(last))
        rows.append((_name(part.name), *(f"{number:.3f}" for number in numbers)))
    runs = f"{len(traces)} run{'s' if len(traces) > 1 else ''}"
    titles = ("weights", "mean", "smallest", "largest")
    return FittedTable(
        [Column("part"), *(Column(title, numeric=True) for title in titles)],
        rows,
        f"{heading}, {runs}: {WHAT}, in the last experience",
    )


def _name(part: str) -> str:
    return part.replace("_", " ")
