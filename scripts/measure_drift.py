"""How far a strategy's mask drifted, over several records: does importance move with the task?

    python scripts/measure_drift.py leaderboards/TRACK --strategy epi

Give a track's folder, folders of runs, or record files; other strategies' records are passed over.
Everything is a Jaccard index; the first line is that of two random masks of the same size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import fmean

from epi_bench.results.masks.trace import MaskTrace, find_record, trace_mask
from epi_bench.results.record.run_record import RunRecord


def records_of(paths: list[Path], strategy: str) -> Iterator[RunRecord]:
    """The records of one strategy in these places."""
    for path in paths:
        inside = path.is_dir() and not (path / "record.json").is_file()
        for file in sorted(path.glob("*.json")) if inside else [path]:
            record = find_record(file)
            if record.strategy.name == strategy:
                yield record


def refreshes(record: RunRecord, trace: MaskTrace) -> tuple[list[float], list[float]]:
    """Overlap with the previous mask: at the first refresh of a later experience, and at others."""
    counts = [point.values["refreshes"] for point in record.mask_statistics]
    ends = [end for _, end in trace.boundaries]
    first: list[float] = []
    other: list[float] = []
    seen, experience = counts[0], 0
    for step, count, overlap in zip(
        trace.steps, counts, trace.drift["jaccard_previous"], strict=True
    ):
        if count == seen or overlap is None:
            continue
        seen = count
        now = sum(step > end for end in ends)
        (first if now > experience else other).append(overlap)
        experience = now
    return first, other


def main() -> None:
    """Print one line for each quantity: mean, smallest, largest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--strategy", default="epi")
    arguments = parser.parse_args()
    records = list(records_of(arguments.paths, arguments.strategy))
    if not records:
        parser.error(f"no record of {arguments.strategy} there")
    rows: dict[str, list[float]] = {
        "two random masks": [],
        "with the previous mask, first refresh in a later experience": [],
        "with the previous mask, other refreshes": [],
        "last mask with the first": [],
        "masks at the ends of neighbouring experiences": [],
        "masks at the ends of experiences further apart": [],
    }
    for record in records:
        trace = trace_mask(record)
        first, other = refreshes(record, trace)
        pairs = list(combinations(range(len(trace.overlap.experiences)), 2))
        near = [trace.overlap.jaccard[i][j] for i, j in pairs if j == i + 1]
        far = [trace.overlap.jaccard[i][j] for i, j in pairs if j > i + 1]
        last = [value for value in trace.drift["jaccard_first"][-1:] if value is not None]
        for values, new in zip(
            rows.values(), ([trace.chance], first, other, last, near, far), strict=True
        ):
            values += new
    print(f"`{arguments.strategy}`, {len(records)} runs\n")
    print("| overlap (Jaccard) | mean | smallest | largest |\n| --- | ---: | ---: | ---: |")
    for name, values in rows.items():
        if values:
            print(f"| {name} | {fmean(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
