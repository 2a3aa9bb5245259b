"""The parts of a record that were measured on the model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from epi_bench.results.metrics.confusion import balanced_accuracy
from epi_bench.results.record.part import Number, Part


class TaskColumn(Part):
    """A column of scores.

    Attributes:
        task: The task's name.
        metric: The task's primary metric.
    """

    task: str
    metric: str


class ScoreColumn(TaskColumn):
    """A column of the score matrix: a task that the run trains.

    Attributes:
        learned_at: The row right after the task was last trained on; ``None`` if there is no such
            moment (mixed stream).
        first_learned_at: The row right after the first experience that trained it. It is another
            row than ``learned_at`` where a stream comes back to the task.
        untrained_until: The last row before it was first trained on; ``None`` if it never was.
        budget: What the stream spends on its training, in budgets of one task alone.

    Records made before the last three were kept are of streams that train every task once.
    """

    learned_at: int | None = None
    first_learned_at: int | None = None
    untrained_until: int | None = None
    budget: float = 1.0


class ScoreMatrixRecord(Part):
    """Scores of every task at every point of evaluation.

    Attributes:
        rows: ``"base"``, then one name for each point of evaluation.
        columns: The tasks in training order.
        values: ``values[row][column]``, 0..100; ``None`` where not measured.
        n: Test items of each column.
        standard_errors: Of ``values``, over the test items.
    """

    rows: tuple[str, ...]
    columns: tuple[ScoreColumn, ...]
    values: tuple[tuple[Number, ...], ...]
    n: tuple[int, ...]
    standard_errors: tuple[tuple[Number, ...], ...]

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        _check_shapes(self)
        for column in self.columns:
            moments = (column.untrained_until, column.first_learned_at, column.learned_at)
            known = [moment for moment in moments if moment is not None]
            if known != sorted(known):
                raise ValueError(f"task {column.task!r} is learned before it is trained")
            if known and not 0 <= known[0] <= known[-1] < len(self.rows):
                raise ValueError(f"learned_at lies outside a matrix of {len(self.rows)} rows")
        return self


class EvalScoresRecord(Part):
    """Scores of the tasks that were scored whenever the trained ones were, and never trained.

    They are in no metric of the score matrix: average accuracy, backward transfer and the others
    are of trained tasks. What they tell is what the model kept: ``task_retention`` and
    ``worst_task_retention``.

    Attributes:
        rows: Those of the score matrix.
        columns: The tasks in the order in which they were named.
        values: ``values[row][column]``, 0..100; ``None`` where not measured.
        n: Test items of each column.
        standard_errors: Of ``values``, over the test items.
        item_scores: For each task the primary metric of each test item in the last row, 0..100,
            packed by :func:`pack_items`.
    """

    rows: tuple[str, ...]
    columns: tuple[TaskColumn, ...]
    values: tuple[tuple[Number, ...], ...]
    n: tuple[int, ...]
    standard_errors: tuple[tuple[Number, ...], ...]
    item_scores: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        _check_shapes(self)
        return self


def _check_shapes(matrix: ScoreMatrixRecord | EvalScoresRecord) -> None:
    for name, table in (("values", matrix.values), ("standard_errors", matrix.standard_errors)):
        if len(table) != len(matrix.rows) or any(len(r) != len(matrix.columns) for r in table):
            raise ValueError(
                f"{name} must have {len(matrix.rows)} rows of {len(matrix.columns)} numbers"
            )
    if len(matrix.n) != len(matrix.columns):
        raise ValueError(f"n must have {len(matrix.columns)} numbers")


class Confusion(Part):
    """Which labels were chosen for the test items of a task that labels texts.

    Attributes:
        labels: In the order of rows and columns.
        counts: ``counts[right][chosen]``, test items.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        size = len(self.labels)
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            raise ValueError(f"counts must have {size} rows of {size} numbers")
        return self

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares labelled right of each label, 0..100; ``None`` without items."""
        return balanced_accuracy(self.counts)


class ConflictPoint(Part):
    """Cosines between the tasks' gradients at one point of evaluation.

    Attributes:
        row: The point's row in the score matrix.
        cosines: One number a pair of tasks, in -1..1; ``None`` where a gradient is zero or not
            finite.
    """

    row: str
    cosines: tuple[tuple[Number, ...], ...]


class GradientConflictRecord(Part):
    """The gradient-conflict probes of a run.

    Attributes:
        tasks: Names of rows and columns.
        examples: Probe examples of each task.
        coordinates: Gradient coordinates compared.
        points: One matrix (tasks, tasks) for each point of evaluation.
    """

    tasks: tuple[str, ...]
    examples: int
    coordinates: int
    points: tuple[ConflictPoint, ...]


class Diagnostics(Part):
    """What the strategy reported at a step (protected share, mask overlap, ...)."""

    step: int
    values: dict[str, Number]


class StiffnessShare(Part):
    """How much of a strategy's graded protection lies in one part of the model.

    Attributes:
        weights: Share of the trained weights that are in the part, in 0..1.
        stiffness: Share of the sum of all stiffness, in 0..1.
    """

    weights: float = Field(ge=0, le=1)
    stiffness: float = Field(ge=0, le=1)


class GradedProtection(Part):
    """Where in the model weights were drawn to earlier values, at the end of an experience.

    Attributes:
        experience: The experience's position in the stream, from 0.
        parts: By kind of module (``attention``, ``mlp``, ``embedding``, ``norm``, ``other``) and by
            layer (``layer_<number>`` from 0).
    """

    experience: int = Field(ge=0)
    parts: dict[str, StiffnessShare]


class Retention(Part):
    """Negative log-likelihood of a general held-out text, in nats a token.

    Attributes:
        nll_before: Of the base model.
        nll_after: Of the finished model.
        tokens: Tokens of the text that were scored.
    """

    nll_before: Number = None
    nll_after: Number = None
    tokens: int


class DivergencePoint(Part):
    """How far the model was from the base model at one point of evaluation.

    Attributes:
        row: The point's row in the score matrix.
        tasks: The tasks of the experience that was being trained; it is measured on theirs.
        nats: Mean of KL(base || model) a supervised token, in nats.
        tokens: Supervised tokens that it is a mean of.
    """

    row: str
    tasks: tuple[str, ...]
    nats: Number = None
    tokens: int


class DivergenceRecord(Part):
    """How far training took the model from the base model, on test examples of the trained tasks.

    Attributes:
        examples: Test examples of each task, at most.
        top: Tokens of the base model's distribution that stand for themselves at each position;
            the others are one class, so that the numbers are lower bounds.
        points: One for each row of the score matrix after the base model's.
    """

    examples: int
    top: int
    points: tuple[DivergencePoint, ...]


class InterpolationPoint(Part):
    """Scores of a model between the base model and the finished one.

    Attributes:
        alpha: Share of the finished weights, in 0..1.
        values: Of each task, 0..100.
        standard_errors: Of ``values``, over the test items.
        nll: Negative log-likelihood of the general text, in nats a token.
    """

    alpha: float = Field(ge=0, le=1)
    values: tuple[Number, ...]
    standard_errors: tuple[Number, ...]
    nll: Number = None


class InterpolationRecord(Part):
    """What lies between the base model and the finished one: ``(1 - alpha) base + alpha finished``.

    It tells whether a part of the way would have kept more (WiSE-FT, arXiv 2109.01903). It chooses
    no alpha: the scores are those of the test.

    Attributes:
        tasks: The trained ones in the order of the stream, then those that were scored only.
        points: From alpha 0, the base model, to 1, the finished one.
    """

    tasks: tuple[str, ...]
    points: tuple[InterpolationPoint, ...]

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        for point in self.points:
            if {len(point.values), len(point.standard_errors)} != {len(self.tasks)}:
                raise ValueError(f"each point must have {len(self.tasks)} numbers")
        return self


class JudgedTask(Part):
    """A judge model's grades of the answers to one task.

    Attributes:
        mean: Of the grades that were given, 0..10; ``None`` if there is none.
        n: Answers that got a grade.
        missing: Answers that got none; they are in no mean.
        standard_error: Of the mean, over the graded answers.
    """

    mean: Number = None
    n: int
    missing: int = 0
    standard_error: Number = None


class JudgedRow(Part):
    """What a judge graded at one point of evaluation.

    Attributes:
        row: The point's row in the score matrix.
        tasks: The grades by task.
    """

    row: str
    tasks: dict[str, JudgedTask]


class JudgeRecord(Part):
    """A judge model's view of a run, comparable only where model and prompts are the same.

    Attributes:
        model: As the endpoint calls it.
        prompt_fingerprint: SHA-256 of the prompts and of how verdicts are read.
        rows: The base model's and the last one.
    """

    model: str
    prompt_fingerprint: str
    rows: tuple[JudgedRow, ...] = ()


class LossPoint(Part):
    """Training loss at a step, in nats a token; ``None`` if it was not a number."""

    step: int
    loss: Number
