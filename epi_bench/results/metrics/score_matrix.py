"""Continual-learning metrics: one definition each, as pure functions of the score matrix.

Notation. ``R`` is the score matrix: row 0 holds the scores of the base model, row t those after
the t-th point of evaluation, one column a task in training order; scores are higher-is-better,
0..100. A cell that was not measured is ``None`` (or NaN) and makes undefined what needs it.
``learned_at[i]`` is the row right after task i was last trained on: ``[1, 2, ..., T]`` in a
sequential stream, so that ``R[learned_at[i]][i]`` is the R[i,i] of the literature. It is ``None``
for a task without such a moment: each task of a mixed stream, or one that is only tested. Such
tasks are left out of every mean over learned tasks.

A stream may come back to a task. What later training did to a task then counts from the last time
it was trained, ``learned_at``; its best score from the first time it had been learned,
``first_learned_at[i]``, the row right after its first experience; and what it got in advance is
read from ``untrained_until[i]``, the last row before its first training. Where every row ends one
experience and no task is trained twice, these are ``learned_at[i]`` and ``learned_at[i] - 1``.

``b`` is row 0, ``S`` holds the scores of
single-task references (full fine-tuning on one task alone, same budget).

What is undefined is ``None``, never NaN and never 0. No function changes its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Score = float | None


ScoreMatrix = Sequence[Sequence[Score]]


RESOLUTION = 1e-9
"""Points that count as no difference in a denominator: less than the rounding of a mean score."""


@dataclass(frozen=True, slots=True)
class PartialMean:
    """A mean over those tasks for which the term is defined.

    Attributes:
        value: The mean; ``None`` if no task is left or a score is missing.
        left_out: How many tasks were left out because their denominator is not positive.
    """

    value: float | None
    left_out: int


@dataclass(frozen=True, slots=True)
class Spread:
    """One value a task, with their mean and the largest one.

    Attributes:
        per_task: Points on the 0..100 scale; ``None`` where undefined.
        mean: Over all tasks; ``None`` if one of them is undefined.
        worst: The largest value; ``None`` if one of them is undefined.
    """

    per_task: tuple[float | None, ...]
    mean: float | None
    worst: float | None


def average_accuracy(matrix: ScoreMatrix) -> float | None:
    """Average accuracy after the whole stream: ACC = (1/T) sum_i R[T,i].

    Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840); the OP of TRACE (arXiv 2310.06762).
    """
    check_matrix(matrix)
    return _mean([cell(matrix, -1, task) for task in range(len(matrix[0]))])


def backward_transfer(matrix: ScoreMatrix, learned_at: Sequence[int | None]) -> float | None:
    """What later training did to a task: BWT = (1/(T-1)) sum_{i<T} (R[T,i] - R[i,i]).

    The sum runs over the tasks that were followed by further training; undefined if there is none.

    Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).
    """
    check_matrix(matrix, learned_at)
    return _mean(
        [
            _difference(cell(matrix, -1, task), cell(matrix, row, task))
            for task, row in _followed(matrix, learned_at)
        ]
    )


def forgetting(
    matrix: ScoreMatrix,
    learned_at: Sequence[int | None],
    first_learned_at: Sequence[int | None] | None = None,
) -> float | None:
    """How far tasks fell from their best: FM = (1/(T-1)) sum_{i<T} (max_{i<=l<T} R[l,i] - R[T,i]).

    The maximum runs from the row after the task was first learned and leaves the last row out, so
    that a task that went on improving gives a negative term. Tasks as in
    :func:`backward_transfer`.

    Source: Chaudhry et al. 2018 (arXiv 1801.10112). Others define it otherwise: avalanche takes
    R[i,i] for the maximum, mammoth includes the last row.

    Args:
        matrix: ``R``.
        learned_at: See the module.
        first_learned_at: See the module; ``learned_at`` if left out.
    """
    check_matrix(matrix, learned_at)
    first_learned_at = learned_at if first_learned_at is None else first_learned_at
    check_matrix(matrix, first_learned_at)
    last = len(matrix) - 1
    terms: list[Score] = []
    for task, row in _followed(matrix, learned_at):
        first = first_learned_at[task]
        start = row if first is None else first
        best = _maximum([cell(matrix, later, task) for later in range(start, last)])
        terms.append(_difference(best, cell(matrix, last, task)))
    return _mean(terms)


def forgetting_rate(matrix: ScoreMatrix, learned_at: Sequence[int | None]) -> PartialMean:
    """Forgetting in per cent of what was learned: the mean of 100 (R[i,i] - R[T,i]) / R[i,i].

    Tasks as in :func:`backward_transfer`. Those that were not learned, R[i,i] <= b_i (up to
    :data:`RESOLUTION`), are left out and counted.

    Source: the forgetting rate of papers on fine-tuning language models in sequence.
    """
    check_matrix(matrix, learned_at)
    terms: list[Score] = []
    left_out = 0
    for task, row in _followed(matrix, learned_at):
        learned, base = cell(matrix, row, task), cell(matrix, 0, task)
        lost = _difference(learned, cell(matrix, -1, task))
        if learned is None or base is None or lost is None:
            terms.append(None)
        elif learned - base <= RESOLUTION:
            left_out += 1
        else:
            terms.append(100 * lost / learned)
    return PartialMean(_mean(terms), left_out)


def forward_transfer(
    matrix: ScoreMatrix,
    learned_at: Sequence[int | None],
    untrained_until: Sequence[int | None] | None = None,
) -> float | None:
    """What earlier tasks gave to a task in advance: FWT = (1/(T-1)) sum_{i>=2} (R[i-1,i] - b_i).

    The sum runs over the tasks that came after some training; undefined if there is none.

    Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), with the base model for b.

    Args:
        matrix: ``R``.
        learned_at: See the module.
        untrained_until: See the module. If it is left out and ``learned_at`` does not tell it,
            because a row follows none of the tasks' last training, the result is undefined.
    """
    check_matrix(matrix, learned_at)
    if untrained_until is None:
        ends = {row for row in learned_at if row is not None}
        if ends != set(range(1, len(matrix))):
            return None
        untrained_until = [None if row is None else row - 1 for row in learned_at]
    check_matrix(matrix, untrained_until)
    return _mean(
        [
            _difference(cell(matrix, row, task), cell(matrix, 0, task))
            for task, row in enumerate(untrained_until)
            if row
        ]
    )


def learning_accuracy(matrix: ScoreMatrix, learned_at: Sequence[int | None]) -> float | None:
    """How well tasks are learned in the first place (plasticity): LA = (1/T) sum_i R[i,i].

    A task that the stream comes back to counts as it was after its last training, so that accuracy
    at the end is learning accuracy and what later training did to it.

    Source: Riemer et al. 2019, MER (arXiv 1810.11910).
    """
    check_matrix(matrix, learned_at)
    return _mean([cell(matrix, row, task) for task, row in _learned(learned_at)])


def intransigence(
    matrix: ScoreMatrix, learned_at: Sequence[int | None], references: Sequence[Score]
) -> float | None:
    """What the stream cost in learning a task: (1/T) sum_i (S_i - R[i,i]).

    Source: Chaudhry et al. 2018 (arXiv 1801.10112), with single-task references.
    """
    check_matrix(matrix, learned_at, references)
    return _mean(
        [
            _difference(_number(references[task]), cell(matrix, row, task))
            for task, row in _learned(learned_at)
        ]
    )


def interference(final: Sequence[Score], references: Sequence[Score]) -> Spread:
    """What training on all tasks at once cost each of them: S_i - J_i.

    Source: negative transfer; the "seesaw" of CPI-FT (arXiv 2508.21741).

    Args:
        final: J, the scores after mixed training.
        references: ``S``, in the same order.
    """
    if len(final) != len(references):
        raise ValueError(f"{len(references)} references for {len(final)} scores")
    return _spread(
        [_difference(_number(s), _number(j)) for j, s in zip(final, references, strict=True)]
    )


def average_normalised_score(matrix: ScoreMatrix, references: Sequence[Score]) -> PartialMean:
    """The share of the possible gain that is left at the end: the mean of (R[T,i]-b_i)/(S_i-b_i).

    0 is the base model, 1 a model as good on each task as one trained on it alone. Tasks with
    S_i <= b_i (up to :data:`RESOLUTION`) are left out and counted.

    Source: this project.
    """
    check_matrix(matrix, references=references)
    terms: list[Score] = []
    left_out = 0
    for task, reference in enumerate(references):
        base = cell(matrix, 0, task)
        gain = _difference(cell(matrix, -1, task), base)
        possible = _difference(_number(reference), base)
        if gain is None or possible is None:
            terms.append(None)
        elif possible <= RESOLUTION:
            left_out += 1
        else:
            terms.append(gain / possible)
    return PartialMean(_mean(terms), left_out)


def worst_task_drop(matrix: ScoreMatrix, learned_at: Sequence[int | None]) -> float | None:
    """The task that lost most: min_i (R[T,i] - max(b_i, R[i,i])).

    Source: this project; a mean hides a task that is lost.
    """
    check_matrix(matrix, learned_at)
    drops = [
        _difference(
            cell(matrix, -1, task),
            _maximum([cell(matrix, 0, task), cell(matrix, row, task)]),
        )
        for task, row in _learned(learned_at)
    ]
    known = [drop for drop in drops if drop is not None]
    return min(known) if known and len(known) == len(drops) else None


@dataclass(frozen=True, slots=True)
class Retained:
    """What was kept of tasks that were scored and never trained.

    Attributes:
        per_task: R[T,j] - R[0,j] of each task, in points; ``None`` where undefined.
        mean: Over all tasks; ``None`` if one of them is undefined.
        least: The smallest value; ``None`` if one of them is undefined.
    """

    per_task: tuple[float | None, ...]
    mean: float | None
    least: float | None


def task_retention(untrained: ScoreMatrix) -> Retained:
    """What training did to tasks that were never trained: R[T,j] - R[0,j].

    0 keeps all that the base model could do, less is forgetting, more is transfer.

    >>> task_retention([[50.0, 80.0], [60.0, 20.0], [40.0, 75.0]])
    Retained(per_task=(-10.0, -5.0), mean=-7.5, least=-10.0)

    Source: the general ability of papers on fine-tuning (TRACE, arXiv 2310.06762), which take its
    change from the base model.

    Args:
        untrained: Scores of these tasks alone, (rows, tasks); the first row is the base model's.
    """
    check_matrix(untrained)
    changes = [
        _difference(cell(untrained, -1, task), cell(untrained, 0, task))
        for task in range(len(untrained[0]))
    ]
    known = [change for change in changes if change is not None]
    least = min(known) if len(known) == len(changes) else None
    return Retained(tuple(changes), _mean(changes), least)


def general_retention(before: float | None, after: float | None) -> float | None:
    """Loss of general ability: NLL_after - NLL_before on a held-out general text; lower is better.

    Source: the method comparison of ``peft``.

    Args:
        before: Mean negative log-likelihood a token of the base model, in nats.
        after: The same of the model after the stream.
    """
    return _difference(_number(after), _number(before))


def order_sensitivity(final: Sequence[Mapping[str, Score]]) -> dict[str, float | None]:
    """How much the task order alone moves a task's final score: max - min over orders, by task.

    Source: order-robustness of APD (Yoon et al. 2020, arXiv 1902.09432). Mean and maximum over the
    tasks are the two summaries in use.

    Args:
        final: For each order, the final scores R[T,i] by task; average over seeds first.

    Returns:
        Points by task; ``None`` for all with fewer than two orders or where a score is missing.
    """
    tasks = dict.fromkeys(task for scores in final for task in scores)
    sensitivity: dict[str, float | None] = {}
    for task in tasks:
        known = [number for s in final if (number := _number(s.get(task))) is not None]
        complete = len(known) == len(final) > 1
        sensitivity[task] = max(known) - min(known) if complete else None
    return sensitivity


def check_matrix(
    matrix: ScoreMatrix,
    rows: Sequence[int | None] | None = None,
    references: Sequence[Score] | None = None,
) -> None:
    """Refuse shapes that do not fit together.

    Args:
        matrix: ``R``, (rows, tasks).
        rows: For each task a row of the matrix, or ``None``.
        references: One score a task.

    Raises:
        ValueError: If there is no cell, or a length or a row does not fit.
    """
    if len(matrix) == 0 or len(matrix[0]) == 0:
        raise ValueError("the score matrix is empty")
    columns = len(matrix[0])
    if any(len(row) != columns for row in matrix):
        raise ValueError("the rows of the score matrix differ in length")
    if rows is not None:
        if len(rows) != columns:
            raise ValueError(f"{len(rows)} rows given for {columns} tasks")
        if any(row is not None and not 0 <= row < len(matrix) for row in rows):
            raise ValueError(f"rows {list(rows)} lie outside a matrix of {len(matrix)} rows")
    if references is not None and len(references) != columns:
        raise ValueError(f"{len(references)} references for {columns} tasks")


def _learned(learned_at: Sequence[int | None]) -> list[tuple[int, int]]:
    """(task, row) of every task that was learned at one moment."""
    return [(task, row) for task, row in enumerate(learned_at) if row is not None]


def _followed(matrix: ScoreMatrix, learned_at: Sequence[int | None]) -> list[tuple[int, int]]:
    """The same, only of tasks that were followed by further training."""
    return [(task, row) for task, row in _learned(learned_at) if row < len(matrix) - 1]


def _number(value: Score) -> float | None:
    """The value as a plain float; ``None`` for a missing one."""
    return None if value is None or math.isnan(value) else float(value)


def cell(matrix: ScoreMatrix, row: int, task: int) -> float | None:
    """``R[row, task]`` as a plain float; ``None`` where it is missing or not a number."""
    return _number(matrix[row][task])


def _difference(minuend: float | None, subtrahend: float | None) -> float | None:
    return None if minuend is None or subtrahend is None else minuend - subtrahend


def _maximum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; ``None`` of nothing, or if a value is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _spread(values: Sequence[float | None]) -> Spread:
    return Spread(tuple(values), _mean(values), _maximum(values))
