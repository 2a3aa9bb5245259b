"""Records as rows of a data frame, at three grains: run, cell, test item, alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epi_bench.results.leaderboard import MEASURES
from epi_bench.results.record.items import unpack_items
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import EvalScoresRecord, ScoreColumn, ScoreMatrixRecord

Rows = list[dict[str, Any]]


def run_rows(records: Sequence[RunRecord], labels: Mapping[str, str]) -> Rows:
    """A row a run: every metric and every cost by name, in the record's units.

    Args:
        records: The runs.
        labels: Run id -> label.
    """
    return [
        {
            **_of_run(record, labels),
            "model": record.spec.model.name,
            "stream": record.spec.stream.kind,
            **record.metrics,
            **{name: measure.of(record) for name, measure in MEASURES.items()},
        }
        for record in records
    ]


def score_rows(records: Sequence[RunRecord], labels: Mapping[str, str]) -> Rows:
    """A row a cell of each run's score matrix; arguments as :func:`run_rows`.

    ``trained`` says whether the run trains the task, or only scores it; ``balanced_accuracy`` is
    that of the finished model on tasks that label texts, 0..100.
    """
    rows: Rows = []
    for record in records:
        if record.score_matrix is None:
            continue
        for position, name in enumerate(record.score_matrix.rows):
            place = {**_of_run(record, labels), "position": position, "row": name}
            for matrix in (record.score_matrix, record.eval_scores):
                rows += [{**place, **cell} for cell in _cells(record, matrix, position)]
    return rows


def _cells(
    record: RunRecord, matrix: ScoreMatrixRecord | EvalScoresRecord | None, position: int
) -> Rows:
    """The cells of one row of the trained tasks' scores, or of the others'."""
    if matrix is None:
        return []
    is_last = position == len(matrix.rows) - 1
    cells: Rows = []
    for i, column in enumerate(matrix.columns):
        learned_at = column.learned_at if isinstance(column, ScoreColumn) else None
        cells.append(
            {
                "task": column.task,
                "metric": column.metric,
                "trained": isinstance(column, ScoreColumn),
                "learned": learned_at is not None and position >= learned_at,
                "score": matrix.values[position][i],
                "standard_error": matrix.standard_errors[position][i],
                "n": matrix.n[i],
                "balanced_accuracy": _balanced_accuracy(record, column.task) if is_last else None,
            }
        )
    return cells


def interpolation_rows(records: Sequence[RunRecord], labels: Mapping[str, str]) -> Rows:
    """A row a task at each point between the base model and the finished one, of the runs that
    scored them; arguments as :func:`run_rows`."""
    rows: Rows = []
    for record in records:
        if record.wise_ft is None:
            continue
        run = _of_run(record, labels)
        for point in record.wise_ft.points:
            scores = zip(record.wise_ft.tasks, point.values, point.standard_errors, strict=True)
            rows += [
                {
                    **run,
                    "alpha": point.alpha,
                    "task": task,
                    "trained": task in record.task_order,
                    "score": score,
                    "standard_error": error,
                    "general_text_nll": point.nll,
                }
                for task, score, error in scores
            ]
    return rows


def item_rows(records: Sequence[RunRecord], labels: Mapping[str, str]) -> Rows:
    """A row a test item of each run, after its last experience; arguments as :func:`run_rows`."""
    rows: Rows = []
    for record in records:
        run = _of_run(record, labels)
        untrained = record.eval_scores.item_scores if record.eval_scores else {}
        for trained, packed_items in ((True, record.item_scores), (False, untrained)):
            for task, packed in packed_items.items():
                rows += [
                    {
                        **run,
                        "task": task,
                        "item": int(item) if item.isdigit() else item,
                        "score": score,
                        "trained": trained,
                    }
                    for item, score in unpack_items(packed).items()
                ]
    return rows


def _balanced_accuracy(record: RunRecord, task: str) -> float | None:
    confusion = record.confusion.get(task)
    return confusion.balanced_accuracy if confusion else None


def _of_run(record: RunRecord, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "track": record.track.name,
        "strategy": record.strategy.name,
        "adapter": record.spec.adapter.kind,
        "label": labels[record.run_id],
        "seed": record.spec.seed,
        "task_order": ", ".join(record.task_order),
        "run_id": record.run_id,
    }
