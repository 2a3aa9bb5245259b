"""The command ``epi-bench inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from epi_bench.results.masks.trace import TaskOverlap


def inspect(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder (runs/<run_id>) or record file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Draw into this file: .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Show how a run's mask moved and what it protected.

    Prints the overlap (Jaccard) of the mask with the previous and the first
    one, beside that of two random masks of its size, the protected share by
    kind of module, and the overlap between the experiences' masks. --out
    draws the same over all steps, with the protected share by layer.
    """
    from epi_bench.results.masks.figure import draw_mask
    from epi_bench.results.masks.trace import find_record, trace_mask

    record = find_record(run)
    trace = trace_mask(record)
    if output is not None:
        draw_mask(record, output)
        typer.echo(f"figure: {output}")
    header = ["step", "previous", "first", "chance", *trace.protected]
    typer.echo("  ".join(f"{name:>9}" for name in header))
    for row, step in enumerate(trace.steps):
        numbers = [values[row] for values in (*trace.drift.values(), *trace.protected.values())]
        cells = [f"{step:>9}", *(f"{'–' if n is None else f'{n:.3f}':>9}" for n in numbers)]
        typer.echo("  ".join(cells))
    _print_overlap(trace.overlap)


def _print_overlap(overlap: TaskOverlap) -> None:
    """The matrix of the experiences' masks."""
    names = overlap.experiences
    if len(names) < 2:
        return
    width = max(9, *map(len, names))
    typer.echo(f"\n{'':{width}}  " + "  ".join(f"{name:>{width}}" for name in names))
    for name, row in zip(names, overlap.jaccard, strict=True):
        cells = [f"{value:>{width}.3f}" for value in row]
        typer.echo("  ".join([f"{name:{width}}", *cells]))
