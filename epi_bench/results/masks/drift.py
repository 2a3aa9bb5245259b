"""How far masks drifted, over several runs: does what is protected move with the task?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.masks.trace import MaskTrace, find_record
from epi_bench.results.record.run_record import RunRecord


@dataclass(frozen=True)
class Drift:
    """Overlaps of one kind, over all runs.

    Attributes:
        between: What was compared with what.
        values: Jaccard indices, in [0, 1]; at least one.
    """

    between: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all overlaps of all runs."""
        return math.fsum(self.values) / len(self.values)


def find_records(paths: Sequence[Path]) -> list[RunRecord]:
    """The records in several places, each once.

    Args:
        paths: Record files, folders of runs (``runs/<run_id>``), or folders that hold either.

    Raises:
        UserError: If one of them holds no record, or a record cannot be read.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        found = list(_record_files(path))
        if not found:
            raise UserError(
                f"no record in {path}: give a run's folder (runs/<run_id>), a folder of them, a "
                "track's folder (leaderboards/<track>) or record files"
            )
        files.update({file.resolve(): file for file in found})
    return [find_record(file) for file in files.values()]


def _record_files(path: Path) -> Iterator[Path]:
    inside = path / "record.json"
    if not path.is_dir() or inside.is_file():
        yield inside if path.is_dir() else path
        return
    yield from sorted(path.glob("*/record.json")) or sorted(path.glob("*.json"))


def mask_drift(traces: Sequence[MaskTrace]) -> list[Drift]:
    """The overlaps of the masks of several runs, kind by kind; kinds without any are left out.

    The first kind is that of two random masks of the same size, which the others are measured by.
    """
    kinds: dict[str, list[float]] = {
        "two random masks": [],
        "with the previous mask, first refresh in a later experience": [],
        "with the previous mask, other refreshes": [],
        "last mask with the first": [],
        "masks at the ends of neighbouring experiences": [],
        "masks at the ends of experiences further apart": [],
    }
    for trace in traces:
        first, other = _refreshes(trace)
        pairs = list(combinations(range(len(trace.overlap.experiences)), 2))
        near = [trace.overlap.jaccard[i][j] for i, j in pairs if j == i + 1]
        far = [trace.overlap.jaccard[i][j] for i, j in pairs if j > i + 1]
        last = [value for value in trace.drift["jaccard_first"][-1:] if value is not None]
        for values, new in zip(
            kinds.values(), ([trace.chance], first, other, last, near, far), strict=True
        ):
            values += new
    return [Drift(kind, tuple(values)) for kind, values in kinds.items() if values]


def _refreshes(trace: MaskTrace) -> tuple[list[float], list[float]]:
    """Overlap with the previous mask: at the first refresh of a later experience, and at others."""
    ends = [end for _, end in trace.boundaries]
    first: list[float] = []
    other: list[float] = []
    seen, experience = trace.refreshes[0], 0
    for step, count, overlap in zip(
        trace.steps, trace.refreshes, trace.drift["jaccard_previous"], strict=True
    ):
        if count in (None, seen) or overlap is None:
            continue
        seen = count
        now = sum(step > end for end in ends)
        (first if now > experience else other).append(overlap)
        experience = now
    return first, other
