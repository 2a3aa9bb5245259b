"""The command ``epi-bench inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epi_bench.cli.board import warn_of_file
from epi_bench.cli.output import OutputFormat, show_tables
from epi_bench.cli.printing import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epi_bench.results.masks.trace import MaskTrace
    from epi_bench.results.record.run_record import RunRecord
    from epi_bench.tables import FittedTable

_HEADS = {"jaccard_previous": "previous", "jaccard_first": "first", "jaccard_chance": "chance"}


def inspect(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="A run's folder (runs/<run_id>) or record file; or several, or folders of them.",
        ),
    ],
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Look at the runs of this strategy only."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Draw one run into this file: .png, .svg or .pdf."
        ),
    ] = None,
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="How the tables are printed.")
    ] = OutputFormat.TABLE,
) -> None:
    """Show what a run protected: how its mask moved, where weights were drawn back.

    Of one run with a mask: the overlap (Jaccard) of the mask with the previous
    and the first one, beside that of two random masks of its size, the protected
    share by kind of module, and the overlap between the experiences' masks.
    --out draws the same over all steps, with the protected share by layer.

    Of one run with graded protection (epi_similarity, ewc, ...): which share of
    the stiffness lies in which kind of module and layer, in each experience.

    Of one run with --wise-ft-curve: the scores between the base model and the
    finished one.

    Of one run with graded protection (epi_similarity, ewc, ...): which share of
    the stiffness lies in which kind of module and layer, in each experience.

    Of several runs: mean, smallest and largest, strategy by strategy.
    """
    from epi_bench.errors import UserError
    from epi_bench.results.masks.drift import find_records

    records = find_records(paths, left_out=warn_of_file)
    if strategy is not None:
        records = _of_strategy(records, strategy)
    if len(records) == 1:
        show_tables(_tables_of_run(records[0], output), output_format)
        return
    if output is not None:
        raise UserError(f"--out draws one run, but {len(records)} were given: name one of them")
    show_tables(_tables_of_runs(records), output_format)


def _of_strategy(records: Sequence[RunRecord], strategy: str) -> list[RunRecord]:
    from epi_bench.errors import unknown_name

    known = {record.strategy.name for record in records}
    if strategy not in known:
        raise unknown_name("strategy of these runs", strategy, known)
    return [record for record in records if record.strategy.name == strategy]


def _tables_of_run(record: RunRecord, output: Path | None) -> list[FittedTable]:
    from epi_bench.cli.graded_tables import graded_table
    from epi_bench.cli.interpolation_table import interpolation_table
    from epi_bench.results.masks.graded import trace_graded
    from epi_bench.results.masks.trace import has_mask

    run = f"{record.spec.label}, seed {record.spec.seed}, run {record.run_id}"
    if record.spec.adapter.kind != "none":
        run += f" (weights of the {record.spec.adapter.kind} adapter)"
    tables: list[FittedTable] = []
    curve = interpolation_table(record, f"{run}: ")
    if has_mask(record) or not (record.graded_protection or curve):
        tables += _mask_tables(run, record)
    if record.graded_protection:
        tables.append(graded_table(run, trace_graded(record)))
    if curve is not None:
        tables.append(curve)
    if output is not None:
        _draw(record, output)
    return tables


def _draw(record: RunRecord, output: Path) -> None:
    from epi_bench.results.masks.figure import draw_graded, draw_mask
    from epi_bench.results.masks.trace import has_mask

    (draw_mask if has_mask(record) else draw_graded)(record, output)
    say(f"figure: {output}", aside=True)


def _mask_tables(run: str, record: RunRecord) -> list[FittedTable]:
    from epi_bench.results.masks.trace import trace_mask

    trace = trace_mask(record)
    tables = [_mask_table(run, trace)]
    if len(trace.overlap.experiences) > 1:
        tables.append(_overlap_table(trace))
    return tables


def _mask_table(run: str, trace: MaskTrace) -> FittedTable:
    """A row for each step at which something had changed since the row above."""
    from epi_bench.results.masks.trace import DRIFT_LINES
    from epi_bench.tables import Column, FittedTable

    series = [*(trace.drift[name] for name in DRIFT_LINES), *trace.protected.values()]
    rows: list[tuple[str, ...]] = []
    before: tuple[float | None, ...] | None = None
    for position, step in enumerate(trace.steps):
        numbers = tuple(values[position] for values in series)
        if numbers != before:
            rows.append((_experience(trace, step), str(step), *map(_overlap_text, numbers)))
        before = numbers
    return FittedTable(
        [
            Column("experience"),
            *(Column(name, numeric=True) for name in ("step", *_HEADS.values(), *trace.protected)),
        ],
        rows,
        f"{run}: overlap of the mask with the previous and the first one and by chance (Jaccard, "
        "0 to 1), then the protected share of each kind of module (0 to 1)",
        keys=2,
    )


def _experience(trace: MaskTrace, step: int) -> str:
    """The experience that a step belongs to."""
    return next((name for name, end in trace.boundaries if step <= end), "")


def _overlap_table(trace: MaskTrace) -> FittedTable:
    from epi_bench.tables import Column, FittedTable

    names = trace.overlap.experiences
    return FittedTable(
        [Column("mask after"), *(Column(name, numeric=True) for name in names)],
        [
            (name, *map(_overlap_text, row))
            for name, row in zip(names, trace.overlap.jaccard, strict=True)
        ],
        "Overlap of the masks at the ends of the experiences (Jaccard, 0 to 1; two random ones: "
        f"{_overlap_text(trace.chance)})",
    )


def _overlap_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _tables_of_runs(records: Sequence[RunRecord]) -> list[FittedTable]:
    """One for each configuration whose strategy protects weights, track by track."""
    from epi_bench.cli.graded_tables import graded_runs_table
    from epi_bench.errors import UserError
    from epi_bench.results.masks.graded import trace_graded
    from epi_bench.results.masks.trace import has_mask, trace_mask

    masked = _by_configuration([record for record in records if has_mask(record)])
    graded = _by_configuration([record for record in records if record.graded_protection])
    if not masked and not graded:
        raise UserError(
            f"none of the {len(records)} runs tells what it protected: only strategies that hold "
            "or draw back weights do, and records of earlier versions tell masks only"
        )
    drift = [
        _drift_table(name, [trace_mask(record) for record in group])
        for name, group in masked.items()
    ]
    return drift + [
        graded_runs_table(name, [trace_graded(record) for record in group])
        for name, group in graded.items()
    ]


def _by_configuration(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each configuration of each track."""
    from epi_bench.results.leaderboard import group_by_configuration

    by_track: dict[str, list[RunRecord]] = {}
    for record in records:
        by_track.setdefault(record.track.name, []).append(record)
    return {
        f"{label} on {track}": list(group)
        for track, runs in by_track.items()
        for label, group in group_by_configuration(runs).items()
    }


def _drift_table(heading: str, traces: Sequence[MaskTrace]) -> FittedTable:
    from epi_bench.results.masks.drift import mask_drift
    from epi_bench.tables import Column, FittedTable

    rows = [
        (drift.between, f"{drift.mean:.2f}", f"{min(drift.values):.2f}", f"{max(drift.values):.2f}")
        for drift in mask_drift(traces)
    ]
    columns = [
        Column("overlap (Jaccard)", text=True),
        *(Column(name, numeric=True) for name in ("mean", "smallest", "largest")),
    ]
    runs = f"{len(traces)} run{'s' if len(traces) > 1 else ''}"
    return FittedTable(columns, rows, f"{heading}, {runs}")
