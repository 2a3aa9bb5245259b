"""Drawing how a run's mask moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.foreign_text import for_terminal
from epi_bench.results.leaderboard.figure import figure_file
from epi_bench.results.masks.graded import trace_graded
from epi_bench.results.masks.trace import (
    DRIFT_LINES,
    MaskTrace,
    TaskOverlap,
    trace_mask,
)
from epi_bench.results.record.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh


def draw_mask(record: RunRecord, path: Path) -> None:
    """Draw drift, protected shares and the tasks' overlap of one run into a file.

    Args:
        record: Of a run whose strategy protects weights.
        path: Where to; its ending (one of :data:`FORMATS`) says as what.

    Raises:
        UserError: If the ending is another, matplotlib is not installed, or there is no mask.
    """
    trace = trace_mask(record)
    maps = [rows for rows in (trace.layers, trace.protected) if rows]
    heights = [3.0, *(0.6 + 0.25 * len(rows) for rows in maps)]
    matrix = len(trace.overlap.experiences) > 1
    with figure_file(path, 13 if matrix else 9, 1 + sum(heights)) as figure:
        parts = (
            figure.subfigures(1, 2, squeeze=False, width_ratios=(9, 5))[0] if matrix else [figure]
        )
        name, seed = record.spec.label, record.spec.seed
        figure.suptitle(for_terminal(f"{name}, {record.spec.stream.kind} stream, seed {seed}"))
        drift, *shares = parts[0].subplots(
            len(heights), 1, sharex=True, height_ratios=heights, squeeze=False
        )[:, 0]
        _draw_drift(drift, trace)
        for axes, rows in zip(shares, maps, strict=True):
            mesh = _draw_shares(axes, trace.steps, rows)
        shares[-1].set_xlabel("optimizer step")
        parts[0].colorbar(mesh, ax=shares, label="protected share")
        for part in parts[1:]:
            _draw_overlap(part.subplots(), trace.overlap, trace.chance)


def draw_graded(record: RunRecord, path: Path) -> None:
    """Draw where one run's graded protection was, experience by experience, into a file.

    Args:
        record: Of a run whose strategy draws weights back.
        path: Where to; its ending (one of :data:`FORMATS`) says as what.

    Raises:
        UserError: If the ending is another, matplotlib is not installed, or there is none.
    """
    trace = trace_graded(record)
    columns = [tuple(part.weights for part in trace.parts)]
    columns += zip(*(part.stiffness for part in trace.parts), strict=True)
    with figure_file(path, 3 + len(columns), 2 + 0.3 * len(trace.parts)) as figure:
        axes = figure.subplots()
        axes.imshow([*zip(*columns, strict=True)], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        names = ["weights", *(for_terminal(name) for name in trace.experiences)]
        axes.set_xticks(range(len(columns)), names, rotation=45, ha="right")
        axes.set_yticks(
            range(len(trace.parts)), [for_terminal(p.name.replace("_", " ")) for p in trace.parts]
        )
        for column, values in enumerate(columns):
            for row, value in enumerate(values):
                _write_in_cell(axes, column, row, value)
        name, seed = record.strategy.name, record.spec.seed
        axes.set_title(
            for_terminal(f"{name}, seed {seed}: share of the stiffness, by experience"),
            fontsize="medium",
        )


def _draw_drift(axes: Axes, trace: MaskTrace) -> None:
    """Jaccard indices over the steps; dashed lines where experiences end."""
    for name, label in DRIFT_LINES.items():
        points = [
            (s, v) for s, v in zip(trace.steps, trace.drift[name], strict=True) if v is not None
        ]
        if points:
            style = ":" if name == "jaccard_chance" else "-"
            axes.plot(*zip(*points, strict=True), style, marker=".", label=label)
    begin = 0
    for name, end in trace.boundaries:
        axes.axvline(end, linestyle="--", color="grey", linewidth=0.8)
        axes.text((begin + end) / 2, 1.12, for_terminal(name), ha="center", fontsize="small")
        begin = end
    axes.set_xlim(0, begin)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("overlap (Jaccard)")
    axes.legend(loc="lower left", fontsize="small")


def _draw_shares(axes: Axes, steps: Sequence[int], rows: Mapping[str, Sequence[float]]) -> QuadMesh:
    """A heat map: a row for each part of the model, colour for its protected share."""
    between = [(a + b) / 2 for a, b in pairwise(steps)]
    edges = [max(steps[0] - 0.5, 0.0), *between, steps[-1] + 0.5]
    mesh = axes.pcolormesh(
        edges, range(len(rows) + 1), list(rows.values()), vmin=0, vmax=1, cmap="viridis"
    )
    names = [for_terminal(name.replace("_", " ")) for name in rows]
    axes.set_yticks([row + 0.5 for row in range(len(rows))], names)
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    return mesh


def _draw_overlap(axes: Axes, overlap: TaskOverlap, chance: float) -> None:
    """The matrix of the experiences' masks, each number in its cell."""
    axes.imshow(overlap.jaccard, vmin=0, vmax=1, cmap="viridis")
    names = [for_terminal(name) for name in overlap.experiences]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for i, row in enumerate(overlap.jaccard):
        for j, value in enumerate(row):
            _write_in_cell(axes, j, i, value)
    axes.set_title(
        f"overlap of the masks at the experiences' ends\n(two random ones: {chance:.2f})",
        fontsize="medium",
    )


def _write_in_cell(axes: Axes, column: int, row: int, value: float) -> None:
    colour = "black" if value > 0.6 else "white"
    axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
