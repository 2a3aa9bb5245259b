"""Every metric that a score matrix gives, by name."""

from __future__ import annotations

from collections.abc import Sequence

from epi_bench.results.metrics.gradient_conflict import gradient_conflict
from epi_bench.results.metrics.score_matrix import (
    Score,
    ScoreMatrix,
    Spread,
    average_accuracy,
    average_normalised_score,
    backward_transfer,
    check_matrix,
    forgetting,
    forgetting_rate,
    forward_transfer,
    general_retention,
    interference,
    intransigence,
    learning_accuracy,
    task_retention,
    worst_task_drop,
)


def derive_metrics(
    matrix: ScoreMatrix,
    learned_at: Sequence[int | None],
    references: Sequence[Score] | None = None,
    *,
    first_learned_at: Sequence[int | None] | None = None,
    untrained_until: Sequence[int | None] | None = None,
    cosines: Sequence[ScoreMatrix] = (),
    nll_before: float | None = None,
    nll_after: float | None = None,
) -> dict[str, float | int | None]:
    """Every metric of one run, by name, as the record keeps them.

    Interference compares joint training with single-task training, so it is defined only if all
    tasks were trained until the end together, which is said by ``learned_at`` being ``None`` for
    every task, and ``untrained_until``, if given, for none; the metrics that need R[i,i] are
    undefined there.

    Args:
        matrix: ``R``, (rows, tasks), 0..100.
        learned_at: For each task the row right after it was last trained on, or ``None``.
        references: ``S`` in the order of the columns, if single-task references were run.
        first_learned_at: See :func:`forgetting`.
        untrained_until: See :func:`forward_transfer`.
        cosines: See :func:`gradient_conflict`.
        nll_before: See :func:`general_retention`, in nats a token.
        nll_after: The same after the stream.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    check_matrix(matrix, learned_at)
    known = [None] * len(matrix[0]) if references is None else list(references)
    rate = forgetting_rate(matrix, learned_at)
    normalised = average_normalised_score(matrix, known)
    joint = all(row is None for row in learned_at) and len(matrix) > 1
    if untrained_until is not None and None in untrained_until:
        joint = False  # a task that was only tested
    seesaw = interference(matrix[-1], known) if joint else Spread((), None, None)
    conflict = gradient_conflict(cosines)
    return {
        "average_accuracy": average_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix, learned_at),
        "forgetting": forgetting(matrix, learned_at, first_learned_at),
        "forgetting_rate": rate.value,
        "forgetting_rate_left_out": rate.left_out,
        "forward_transfer": forward_transfer(matrix, learned_at, untrained_until),
        "learning_accuracy": learning_accuracy(matrix, learned_at),
        "intransigence": intransigence(matrix, learned_at, known),
        "interference": seesaw.mean,
        "interference_worst": seesaw.worst,
        "average_normalised_score": normalised.value,
        "average_normalised_score_left_out": normalised.left_out,
        "worst_task_drop": worst_task_drop(matrix, learned_at),
        "general_retention": general_retention(nll_before, nll_after),
        "gradient_conflict": conflict.negative_share,
        "gradient_cosine": conflict.mean_cosine,
    }


def retention_metrics(untrained: ScoreMatrix) -> dict[str, float | int | None]:
    """What a run kept of the tasks that it scored and never trained, by name.

    Args:
        untrained: Their scores, (rows, tasks), 0..100; the rows are those of the score matrix.

    Raises:
        ValueError: If there is no score.
    """
    kept = task_retention(untrained)
    return {"task_retention": kept.mean, "worst_task_retention": kept.least}
