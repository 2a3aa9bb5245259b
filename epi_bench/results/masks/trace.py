"""How a run's mask moved: drift over the steps, what was protected where, overlap between tasks.

Reads what the strategy reported while it trained (``mask_statistics`` of a record); no model is
loaded and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import Diagnostics

SHARE = "protected_"
"""Begins the name of a protected share."""

EXPERIENCE = "jaccard_experience_"
"""Begins the name of the overlap with the mask at an experience's end, counted from 1."""

DRIFT_LINES = {
    "jaccard_previous": "with the previous mask",
    "jaccard_first": "with the first mask",
    "jaccard_chance": "two random masks of this size",
}
"""Statistics of the drift panel and what they are called there."""


@dataclass(frozen=True)
class TaskOverlap:
    """How much the masks at the ends of the experiences have in common.

    Attributes:
        experiences: Names of those that ended with a mask.
        jaccard: ``jaccard[i][j]`` of the experiences i and j, symmetric, 1 on the diagonal.
    """

    experiences: tuple[str, ...]
    jaccard: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MaskTrace:
    """A mask's statistics over one run.

    Attributes:
        steps: Optimizer steps at which they were taken.
        drift: Jaccard indices by the names of :data:`DRIFT_LINES`, one value a step, ``None`` where
            there was nothing to compare with.
        refreshes: Masks that there had been by each step; ``None`` in records without the count.
        protected: Protected share of each kind of module, in [0, 1], one value a step.
        layers: The same of each layer of the stack, by ``layer_<number>`` from 0; empty where the
            parameters' names tell no layers.
        boundaries: Name of each experience and its last optimizer step.
        overlap: Jaccard index of the masks at the ends of every two experiences that had one, as a
            matrix, with the experiences' names; empty if the run kept none.
        chance: Overlap of two random masks of the last mask's size.
    """

    steps: tuple[int, ...]
    drift: dict[str, tuple[float | None, ...]]
    refreshes: tuple[float | None, ...]
    protected: dict[str, tuple[float, ...]]
    layers: dict[str, tuple[float, ...]]
    boundaries: tuple[tuple[str, int], ...]
    overlap: TaskOverlap
    chance: float


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


def has_mask(record: RunRecord) -> bool:
    """Whether the run's strategy reported a mask."""
    return any("achieved_ratio" in point.values for point in record.mask_statistics)


def trace_mask(record: RunRecord) -> MaskTrace:
    """The statistics of a record, by what they are about.

    Raises:
        UserError: If the run's strategy reported no mask.
    """
    points = [point for point in record.mask_statistics if "achieved_ratio" in point.values]
    if not points:
        raise UserError(
            f"run {record.run_id} ({record.strategy.name}) does not tell what it protected: only "
            "strategies that hold or draw back weights do, and records of earlier versions tell "
            "masks only"
        )
    shares = {k for point in points for k in point.values if k.startswith(SHARE)}
    numbered = {k: k.removeprefix(f"{SHARE}layer_") for k in shares}
    layers = sorted((k for k in shares if numbered[k].isdecimal()), key=lambda k: int(numbered[k]))
    last = 0
    boundaries = []
    for experience in record.experiences:
        last += experience.trained_steps
        boundaries.append((experience.name, last))
    return MaskTrace(
        steps=tuple(point.step for point in points),
        drift={name: tuple(point.values.get(name) for point in points) for name in DRIFT_LINES},
        refreshes=tuple(point.values.get("refreshes") for point in points),
        protected=_shares(points, sorted(shares - set(layers))),
        layers=_shares(points, layers),
        boundaries=tuple(boundaries),
        overlap=_overlap(points, boundaries),
        chance=points[-1].values.get("jaccard_chance") or 0.0,
    )


def _shares(points: Sequence[Diagnostics], keys: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {
        key.removeprefix(SHARE): tuple(point.values.get(key) or 0.0 for point in points)
        for key in keys
    }


def _overlap(points: Sequence[Diagnostics], boundaries: Sequence[tuple[str, int]]) -> TaskOverlap:
    """The matrix, from what was measured when each experience ended."""
    at = {point.step: point.values for point in points}
    ends = [(name, at[end]) for name, end in boundaries if end in at]
    earlier = [
        [values[key] for number in range(1, row + 1) if (key := f"{EXPERIENCE}{number}") in values]
        for row, (_, values) in enumerate(ends)
    ]
    if any(len(values) != row for row, values in enumerate(earlier)):
        return TaskOverlap((), ())  # a record from before this was measured
    size = range(len(ends))
    return TaskOverlap(
        experiences=tuple(name for name, _ in ends),
        jaccard=tuple(
            tuple(1.0 if i == j else earlier[max(i, j)][min(i, j)] or 0.0 for j in size)
            for i in size
        ),
    )
