"""How far masks drifted, over several runs: does what is protected move with the task?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.masks.trace import MaskTrace, find_record
from epi_bench.results.record.record_file import load_record
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


def find_records(
    paths: Sequence[Path], left_out: Callable[[str], None] | None = None
) -> list[RunRecord]:
    """The records in several places, each once.

    Args:
        paths: Record files, folders of runs (``runs/<run_id>``), or folders that hold either.
        left_out: Told in a line of each file of a folder that is no valid record, which is left
            out then; ``None`` refuses it. A file or run that is named itself is always refused.

    Raises:
        UserError: If one of the places holds no record, or a record cannot be read.
    """
    files: dict[Path, Path] = {}
    named: set[Path] = set()
    for path in paths:
        inside = path / "record.json"
        if not path.is_dir() or inside.is_file():
            file = inside if path.is_dir() else path
            files[_resolved(file)] = file
            named.add(_resolved(file))
            continue
        found = sorted(path.glob("*/record.json")) or sorted(path.glob("*.json"))
        if not found:
            raise UserError(
                f"no record in {path}: give a run's folder (runs/<run_id>), a folder of them, a "
                "track's folder (results/<track>) or record files"
            )
        files.update({_resolved(file): file for file in found})
    records = []
    for place, file in files.items():
        try:
            records.append(find_record(file) if place in named else load_record(file))
        except UserError as error:
            if left_out is None or place in named:
                raise
            left_out(str(error))
    if not records:
        raise UserError(f"no readable record in {paths[0]}: the warnings above name the files")
    return records


def _resolved(path: Path) -> Path:
    """The file itself; a link that leads nowhere stands for itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path.absolute()


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
