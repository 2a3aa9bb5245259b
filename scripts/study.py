"""What the studies of settings have in common: their seeds, their runs and their tables.

Imported by the scripts beside it; it does nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import local_backend, make_runs
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.spec.run_spec import RunSpec

VALIDATION_SEEDS = (100, 101)
"""No published result uses them."""

METRICS = ("average_accuracy", "backward_transfer", "learning_accuracy")
"""What the tables show."""


def make_records(
    specs: Sequence[RunSpec], folder: Path, jobs: int
) -> list[tuple[RunSpec, RunRecord]]:
    """Make the runs that are missing, with a line for each; those that succeeded.

    Args:
        specs: The runs.
        folder: Of their records; nothing is published.
        jobs: Runs at a time.
    """
    request = RunRequest(Workspace(folder), published=False)
    records = []
    outcomes = make_runs(specs, request, local_backend(jobs, len(specs)), RunObserver())
    for number, outcome in enumerate(outcomes, start=1):
        strategy = outcome.spec.strategy
        line = f"[{number}/{len(specs)}] {strategy.name} {strategy.options}"
        print(line, outcome.error or "", flush=True)
        if outcome.record is not None and outcome.succeeded:
            records.append((outcome.spec, outcome.record))
    return records


def metric_values(records: Iterable[RunRecord], metric: str) -> list[float]:
    """A metric of the runs that define it; a mixed stream has no transfer, for example."""
    return [value for record in records if (value := record.metrics[metric]) is not None]


def mean_cells(records: Sequence[RunRecord]) -> str:
    """The means of :data:`METRICS` as the cells of a markdown table."""
    values = [metric_values(records, metric) for metric in METRICS]
    return " | ".join(f"{fmean(known):.1f}" if known else "–" for known in values)


def write_table(text: str, path: Path) -> None:
    """Print a table and write it into a file."""
    path.write_text(text, encoding="utf-8")
    print(text)
