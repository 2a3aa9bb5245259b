"""Draw the README's picture from published records: score matrices, and keeping against learning.

python scripts/plot_score_matrices.py leaderboards/TRACK docs/score_matrices.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from epi_bench.record import RunRecord
from epi_bench.record_file import load_record

LEFT, RIGHT = "full_sft", "epi"


def load(track: Path) -> dict[str, list[RunRecord]]:
    """Finished records of a track by strategy."""
    records: dict[str, list[RunRecord]] = defaultdict(list)
    for path in sorted(track.glob("*.json")):
        record = load_record(path)
        records[record.strategy.name].append(record)
    return records


def mean_matrix(records: list[RunRecord]) -> list[list[float]]:
    """Scores by position in the stream, averaged over runs of different task orders."""
    matrices = [record.score_matrix.values for record in records if record.score_matrix]
    rows, columns = len(matrices[0]), len(matrices[0][0])
    return [
        [sum(m[row][column] or 0.0 for m in matrices) / len(matrices) for column in range(columns)]
        for row in range(rows)
    ]


def draw_matrix(axes: Any, records: list[RunRecord], title: str) -> None:
    """One heat map with its numbers."""
    matrix = mean_matrix(records)
    axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_title(title)
    axes.set_xticks(range(len(matrix[0])), [f"task {i + 1}" for i in range(len(matrix[0]))])
    labels = ["base model", *(f"after task {i}" for i in range(1, len(matrix)))]
    axes.set_yticks(range(len(matrix)), labels)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "white" if value < 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)


def draw_balance(axes: Any, records: dict[str, list[RunRecord]]) -> None:
    """Learning accuracy against backward transfer, one point a strategy."""
    for number, (name, group) in enumerate(sorted(records.items())):
        learned, kept = (
            sum(record.metrics[metric] or 0.0 for record in group) / len(group)
            for metric in ("learning_accuracy", "backward_transfer")
        )
        colour = "tab:red" if name == RIGHT else "tab:gray" if name != LEFT else "black"
        axes.scatter(learned, kept, color=colour, s=36)
        offset = 7 if number % 2 else -12
        axes.annotate(name, (learned, kept), textcoords="offset points", xytext=(6, offset))
    axes.set_xlabel("learning accuracy (higher: learns better)")
    axes.set_ylabel("backward transfer (higher: forgets less)")
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    axes.set_title("keeping against learning")


def main() -> None:
    """Read the track and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("track", type=Path, help="folder with the records of one track")
    parser.add_argument("picture", type=Path, help="PNG or SVG file to write")
    arguments = parser.parse_args()
    records = load(arguments.track)
    runs = len(records[RIGHT])
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2))
    draw_matrix(left, records[LEFT], f"full fine-tuning (mean of {len(records[LEFT])} runs)")
    draw_matrix(middle, records[RIGHT], f"EPI (mean of {runs} runs)")
    middle.set_yticklabels([])
    draw_balance(right, records)
    figure.tight_layout()
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
