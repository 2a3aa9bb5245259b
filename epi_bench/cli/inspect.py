"""The command ``epi-bench inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder (runs/<run_id>) or record file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw into this file: .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Show how a run's mask moved and which kinds of module it protected.

    Prints the overlap (Jaccard) of the mask with the previous and the first
    one, beside that of two random masks of its size, and the protected share
    by kind of module. --output draws the same over all steps.
    """
    from epi_bench.inspection import draw_mask, find_record, trace_mask

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
