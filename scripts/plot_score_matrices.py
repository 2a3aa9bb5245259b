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
from matplotlib.transforms import Bbox

from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord

SHOWN = {"full_sft": "full fine-tuning", "epi": "EPI", "epi_similarity": "similarity-weighted EPI"}
"""Strategies whose matrices are drawn, and their titles."""


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
    points = {
        name: tuple(
            sum(record.metrics[metric] or 0.0 for record in group) / len(group)
            for metric in ("learning_accuracy", "backward_transfer")
        )
        for name, group in records.items()
    }
    for name, point in points.items():
        axes.scatter(*point, color="tab:red" if name in SHOWN else "tab:gray", s=36)
    axes.set_xlabel("learning accuracy (higher: learns better)")
    axes.set_ylabel("backward transfer (higher: forgets less)")
    axes.margins(0.25)
    axes.grid(alpha=0.3)
    axes.set_title("keeping against learning")
    label_points(axes, points)


def label_points(axes: Any, points: dict[str, tuple[float, ...]]) -> None:
    """Each name beside its point, on the first side where it covers no other name or point."""
    figure = axes.figure
    figure.canvas.draw()
    around = [axes.transData.transform(point) for point in points.values()]
    boxes = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in around]
    for name in sorted(points, key=lambda name: -points[name][1]):
        for across, up in ((7, 3), (-7, 3), (7, -10), (-7, -10), (0, 9), (0, -16)):
            side = "left" if across > 0 else "right" if across < 0 else "center"
            text = axes.annotate(
                name, points[name], textcoords="offset points", xytext=(across, up), ha=side
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in boxes):
                break
            text.remove()
        else:
            axes.annotate(name, points[name])
        boxes.append(box)


def main() -> None:
    """Read the track and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("track", type=Path, help="folder with the records of one track")
    parser.add_argument("picture", type=Path, help="PNG or SVG file to write")
    arguments = parser.parse_args()
    records = load(arguments.track)
    widths = [1.0] * len(SHOWN) + [1.2]
    figure, panels = plt.subplots(1, len(widths), figsize=(20, 4.4), width_ratios=widths)
    for number, (name, title) in enumerate(SHOWN.items()):
        draw_matrix(panels[number], records[name], f"{title} (mean of {len(records[name])} runs)")
        if number:
            panels[number].set_yticklabels([])
    draw_balance(panels[-1], records)
    figure.tight_layout()
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
