"""How a run's mask moved: drift over the steps, and which kinds of module were protected.

Reads what the strategy reported while it trained (``mask_statistics`` of a record); no model is
loaded and nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.record import RunRecord, load_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
"""File types that figures are written as."""

DRIFT_LINES = {
    "jaccard_previous": "with the previous mask",
    "jaccard_first": "with the first mask",
    "jaccard_chance": "two random masks of this size",
}
"""Statistics of the drift panel and what they are called there."""


@dataclass(frozen=True)
class MaskTrace:
    """A mask's statistics over one run.

    Attributes:
        steps: Optimizer steps at which they were taken.
        drift: Jaccard indices by the names of :data:`DRIFT_LINES`, one value a step, ``None`` where
            there was nothing to compare with.
        protected: Protected share of each kind of module, in [0, 1], one value a step.
        boundaries: Name of each experience and its last optimizer step.
    """

    steps: tuple[int, ...]
    drift: dict[str, tuple[float | None, ...]]
    protected: dict[str, tuple[float, ...]]
    boundaries: tuple[tuple[str, int], ...]


def find_record(run: Path) -> RunRecord:
    """The record of a run.

    Args:
        run: A run's folder (``runs/<run_id>``) or a record's file.

    Raises:
        UserError: If there is none.
    """
    path = run / "record.json" if run.is_dir() else run
    if not path.is_file():
        raise UserError(
            f"no record at {path}: give a finished run's folder (runs/<run_id>) or its record.json"
        )
    return load_record(path)


def trace_mask(record: RunRecord) -> MaskTrace:
    """The statistics of a record, by what they are about.

    Raises:
        UserError: If the run's strategy reported no mask.
    """
    points = [point for point in record.mask_statistics if "achieved_ratio" in point.values]
    if not points:
        raise UserError(
            f"run {record.run_id} ({record.strategy.name}) has no mask statistics: "
            "only strategies that protect weights report them"
        )
    kinds = sorted({k for point in points for k in point.values if k.startswith("protected_")})
    last = 0
    boundaries = []
    for experience in record.experiences:
        last += experience.steps
        boundaries.append((experience.name, last))
    return MaskTrace(
        steps=tuple(point.step for point in points),
        drift={name: tuple(point.values.get(name) for point in points) for name in DRIFT_LINES},
        protected={
            kind.removeprefix("protected_"): tuple(
                point.values.get(kind) or 0.0 for point in points
            )
            for kind in kinds
        },
        boundaries=tuple(boundaries),
    )


def draw_mask(record: RunRecord, path: Path) -> None:
    """Draw drift and protected shares of one run into a file.

    Args:
        record: Of a run whose strategy protects weights.
        path: Where to; its ending (one of :data:`FORMATS`) says as what.

    Raises:
        UserError: If the ending is another, matplotlib is not installed, or there is no mask.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot draw into {path}: the name must end in {', '.join(FORMATS)}")
    trace = trace_mask(record)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            'figures need matplotlib, which is not installed: pip install "epi-bench[plot]"'
        ) from error
    figure = Figure(figsize=(9, 6), layout="constrained")
    drift, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    name, seed = record.strategy.name, record.spec.seed
    figure.suptitle(f"{name}, {record.spec.stream.kind} stream, seed {seed}")
    _draw_drift(drift, trace)
    _draw_shares(shares, trace)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


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
        axes.text((begin + end) / 2, 1.03, name, ha="center", fontsize="small")
        begin = end
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("overlap (Jaccard)")
    axes.legend(loc="lower left", fontsize="small")


def _draw_shares(axes: Axes, trace: MaskTrace) -> None:
    """A heat map: one row a kind of module, colour for its protected share."""
    kinds = list(trace.protected)
    edges = [0.0, *((a + b) / 2 for a, b in zip(trace.steps, trace.steps[1:], strict=False))]
    edges = [max(trace.steps[0] - 0.5, 0.0), *edges[1:], trace.steps[-1] + 0.5]
    mesh = axes.pcolormesh(
        edges,
        range(len(kinds) + 1),
        [trace.protected[kind] for kind in kinds],
        vmin=0,
        vmax=1,
        cmap="viridis",
    )
    axes.set_yticks([row + 0.5 for row in range(len(kinds))], kinds)
    axes.set_xlabel("optimizer step")
    axes.figure.colorbar(mesh, ax=axes, label="protected share")
