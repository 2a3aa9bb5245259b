"""Figures of a track: score matrices, and what strategies learn against what they keep.

They are drawn for a page 830 pixels wide, on a transparent ground, with dark or light letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from epi_bench.errors import UserError
from epi_bench.files import write_atomically
from epi_bench.foreign_text import for_terminal
from epi_bench.results.leaderboard.comparison import find_label
from epi_bench.results.leaderboard.configuration import group_by_configuration
from epi_bench.results.leaderboard.repetitions import values_by_pair
from epi_bench.results.record.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Theme = Literal["light", "dark"]

FORMATS = (".png", ".svg", ".pdf")
"""File types that figures are written as."""

WIDTH = 8.3
"""Inches; 830 pixels of a page that shows 100 an inch."""

MOST_MATRICES = 2
"""Score matrices beside each other that can still be read."""

_COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")

_LETTERS = {"light": "#1f2328", "dark": "#e6edf3"}
_POINT, _NAMED_POINT = "#8c959f", "#d1570a"


@contextmanager
def figure_file(
    path: Path, width: float, height: float, theme: Theme | None = None
) -> Iterator[Figure]:
    """A new figure, which is written into a file at the end.

    Args:
        path: Where to; its ending (one of :data:`FORMATS`) says as what.
        width: In inches.
        height: In inches.
        theme: The page that it is shown on, with the ground left transparent; ``None`` for black
            letters on white.

    Raises:
        UserError: If the ending is another, matplotlib is not installed, or the file cannot be
            written. The first two before anything is drawn.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot draw into {path}: the name must end in {', '.join(FORMATS)}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            'figures need matplotlib, which is not installed: pip install "epi-bench[plot]"'
        ) from error
    style: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}  # a $ is a $
    if theme is not None:
        style |= dict.fromkeys(_COLOURED, _LETTERS[theme])
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # Without the version of matplotlib the same figure is the same file.
        unsigned = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
        kind = path.suffix.lower()
        content = BytesIO()
        figure.savefig(
            content,
            format=kind.removeprefix("."),
            dpi=200,
            transparent=theme is not None,
            metadata={unsigned[kind]: None},
        )
        write_atomically(path, content.getvalue())


def draw_score_matrices(
    records: Sequence[RunRecord],
    strategies: Sequence[str],
    path: Path,
    theme: Theme = "light",
    published: Sequence[RunRecord] = (),
) -> None:
    """Draw the score matrices of one or two strategies, averaged over their runs.

    Args:
        records: All runs of one track.
        strategies: Labels or names.
        path: See :func:`figure_file`.
        theme: See :func:`figure_file`.
        published: Published runs of the track beside them.

    Raises:
        UserError: If a strategy is unknown, there are more than two, or their runs were scored at
            different numbers of points; and as :func:`figure_file`.
    """
    if not 1 <= len(strategies) <= MOST_MATRICES:
        raise UserError(
            f"{len(strategies)} score matrices beside each other cannot be read: "
            f"name one or {MOST_MATRICES} strategies"
        )
    groups = group_by_configuration(records, published)
    labels = [find_label(groups, name) for name in strategies]
    drawn = {label: _mean_matrix(label, groups[label]) for label in labels}
    shown = [record for label in labels for record in groups[label]]
    names = [*_task_names(shown), *_eval_names(shown)]
    trained = len(shown[0].task_order)
    with figure_file(path, WIDTH, 3.9, theme) as figure:
        panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
        for number, (axes, label) in enumerate(zip(panels, labels, strict=True)):
            _draw_matrix(axes, drawn[label], names, trained, first=number == 0)
            runs = len(groups[label])
            axes.set_title(
                f"{for_terminal(label)} (mean of {runs} run{'s' if runs > 1 else ''})", fontsize=11
            )


def _mean_matrix(label: str, records: Sequence[RunRecord]) -> list[list[float | None]]:
    """Scores by position in the stream, averaged over the runs that have them."""
    matrices = [_all_scores(record) for record in records if record.score_matrix]
    shapes = {(len(matrix), len(matrix[0])) for matrix in matrices}
    if len(shapes) != 1:
        raise UserError(f"the runs of {label} were scored at different numbers of points")
    ((rows, columns),) = shapes
    mean: list[list[float | None]] = []
    for row in range(rows):
        mean.append([])
        for column in range(columns):
            known = [v for matrix in matrices if (v := matrix[row][column]) is not None]
            mean[-1].append(math.fsum(known) / len(known) if known else None)
    return mean


def _all_scores(record: RunRecord) -> list[tuple[float | None, ...]]:
    """A run's scores by row: of the trained tasks, then of those that were never trained."""
    rows = record.score_matrix.values if record.score_matrix else ()
    untrained = record.eval_scores.values if record.eval_scores else ((),) * len(rows)
    return [(*scores, *others) for scores, others in zip(rows, untrained, strict=True)]


def _eval_names(records: Sequence[RunRecord]) -> list[str]:
    """The marked names of the tasks that were never trained, which all runs of a track share."""
    scores = records[0].eval_scores
    return [f"{for_terminal(c.task)} (eval)" for c in scores.columns] if scores else []


def _task_names(records: Sequence[RunRecord]) -> list[str]:
    """The tasks, where all runs train them in one order; else their positions."""
    orders = {record.task_order for record in records}
    if len(orders) == 1:
        return [for_terminal(name) for name in orders.pop()]
    return [f"task {number}" for number in range(1, len(records[0].task_order) + 1)]


def _draw_matrix(
    axes: Axes,
    matrix: Sequence[Sequence[float | None]],
    names: Sequence[str],
    trained: int,
    *,
    first: bool,
) -> None:
    """A heat map with its numbers; a frame around what was just learned.

    Args:
        axes: Where it is drawn.
        matrix: Scores; the first columns are those of the trained tasks.
        names: Of all columns.
        trained: How many tasks are trained; a gap stands between them and the others.
        first: Whether it is the leftmost of the figure.
    """
    from matplotlib.patches import Rectangle

    numbers = [[math.nan if value is None else value for value in row] for row in matrix]
    axes.imshow(numbers, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    sequential = len(matrix) == trained + 1
    if trained < len(names):
        axes.axvline(trained - 0.5, color="white", lw=4)
    after = (
        names[:trained] if sequential else [f"part {number}" for number in range(1, len(matrix))]
    )
    slanted = max(map(len, names)) > len("task 10")
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=30 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(matrix)), ["before training", *(f"after {name}" for name in after)])
    axes.tick_params(labelsize=10, length=0)
    axes.set_xlabel("scored task (0 to 100)", fontsize=11)
    if first:
        axes.set_ylabel("time of scoring", fontsize=11)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            if value is not None:
                colour = "white" if value < 60 else "black"
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=11
                )
            if sequential and row == column + 1:
                axes.add_patch(
                    Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec="white", lw=2)
                )
    for side in axes.spines.values():
        side.set_visible(False)


def draw_balance(
    records: Sequence[RunRecord],
    strategies: Sequence[str],
    path: Path,
    theme: Theme = "light",
    published: Sequence[RunRecord] = (),
) -> None:
    """Draw learning accuracy against backward transfer, one point a strategy.

    Args:
        records: All runs of one track.
        strategies: Labels or names that are drawn in colour.
        path: See :func:`figure_file`.
        theme: See :func:`figure_file`.
        published: Published runs of the track beside them.

    Raises:
        UserError: If a strategy is unknown, or no run defines both measures (a mixed stream does
            not); and as :func:`figure_file`.
    """
    groups = group_by_configuration(records, published)
    coloured = {find_label(groups, name) for name in strategies}
    points = {}
    for label, group in groups.items():
        learned = values_by_pair(group, "learning_accuracy").values()
        kept = values_by_pair(group, "backward_transfer").values()
        if learned and kept:
            points[label] = (math.fsum(learned) / len(learned), math.fsum(kept) / len(kept))
    if not points:
        raise UserError(
            "no run of this track has a learning accuracy and a backward transfer: they need a "
            "stream that trains the tasks one after the other"
        )
    with figure_file(path, WIDTH, 5.2, theme) as figure:
        axes = figure.subplots()
        for label, point in points.items():
            axes.scatter(*point, color=_NAMED_POINT if label in coloured else _POINT, s=44)
        axes.set_xlabel("learning accuracy: higher learns better", fontsize=11)
        axes.set_ylabel("backward transfer: higher forgets less", fontsize=11)
        axes.tick_params(labelsize=10)
        axes.margins(0.12)
        axes.grid(alpha=0.3)
        _label_points(axes, points)


def _label_points(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Each name beside its point, on the first side where it covers no other name or point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.figure
    FigureCanvasAgg(figure.get_figure(root=True)).draw()
    around = [axes.transData.transform(point) for point in points.values()]
    boxes: list[Bbox] = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in around]
    for name in sorted(points, key=lambda name: -points[name][1]):
        for across, up in (
            (8, -4),
            (-8, -4),
            (8, 6),
            (-8, 6),
            (0, 9),
            (0, -17),
            (8, -14),
            (-8, -14),
        ):
            side = "left" if across > 0 else "right" if across < 0 else "center"
            text = axes.annotate(
                for_terminal(name),
                points[name],
                textcoords="offset points",
                xytext=(across, up),
                ha=side,
                fontsize=10,
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in boxes):
                break
            text.remove()
        else:
            shown = axes.annotate(for_terminal(name), points[name], fontsize=10)
            box = shown.get_window_extent()
        boxes.append(box)
