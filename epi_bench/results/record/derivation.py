"""The metrics of a record, derived from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from epi_bench.results.metrics.derived import derive_metrics, retention_metrics
from epi_bench.results.record.scores import (
    DivergenceRecord,
    EvalScoresRecord,
    GradientConflictRecord,
    Retention,
    ScoreColumn,
    ScoreMatrixRecord,
)


def metrics_of(
    matrix: ScoreMatrixRecord,
    conflict: GradientConflictRecord | None,
    retention: Retention | None,
    references: Mapping[str, float | None] | None,
    eval_scores: EvalScoresRecord | None = None,
    divergence: DivergenceRecord | None = None,
) -> dict[str, float | int | None]:
    """Every metric of a run, by name.

    Args:
        matrix: Scores, 0..100.
        conflict: Gradient-conflict probes, if there were any.
        retention: Loss on the general text, if it was measured.
        references: Single-task score of each task; ``None`` where they were not measured.
        eval_scores: Scores of tasks that were never trained, if there were any.
        divergence: From the base model, if it was measured.
    """
    columns = matrix.columns
    known = any(column.untrained_until is not None for column in columns)
    derived = derive_metrics(
        matrix.values,
        [column.learned_at for column in columns],
        [_reference(column, references) for column in columns] if references else None,
        first_learned_at=[column.first_learned_at for column in columns] if known else None,
        untrained_until=[column.untrained_until for column in columns] if known else None,
        cosines=[point.cosines for point in conflict.points] if conflict else (),
        nll_before=retention.nll_before if retention else None,
        nll_after=retention.nll_after if retention else None,
    )
    kept = retention_metrics(eval_scores.values) if eval_scores else {}
    moved = {"kl_to_base": divergence.points[-1].nats} if divergence else {}
    return {**derived, **kept, **moved}


def _reference(column: ScoreColumn, references: Mapping[str, float | None]) -> float | None:
    """The task's single-task score, if that was trained as long as the stream trains the task."""
    return references[column.task] if math.isclose(column.budget, 1) else None
