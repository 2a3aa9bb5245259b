"""The published result of a run: one JSON file, versioned, written whole or not at all.

Everything that a table, a test or a plot needs is in it. Two runs of one specification give the
same record except for what :func:`comparable` leaves out: what they cost and where they ran.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from epi_bench.config import RunSpec
from epi_bench.errors import UserError
from epi_bench.track import Track

MAX_ITEM_BYTES = 256 * 1024 * 1024
"""Item scores that unpack to more are refused, so that no file can exhaust the memory."""


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number that may be undefined; NaN and infinity become ``None``."""


class Part(BaseModel):
    """Base of all parts of a record: immutable, unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StrategyRecord(Part):
    """The strategy that was run.

    Attributes:
        hyperparameters: All of them, the defaults filled in; without those that later versions
            added and that have the value implied before (``Strategy.later_options``).
        source: Whether it came with the package or from a plugin.
    """

    name: str
    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict)
    source: Literal["built-in", "plugin"] = "built-in"


class ExperienceRecord(Part):
    """What one experience trained on.

    Attributes:
        steps: Optimizer steps.
        examples: Training examples, without those that had nothing to learn from.
        truncated: Examples among them that were cut to the maximal length.
        unsupervised: Examples left out because nothing supervised was left of them.
    """

    name: str
    tasks: tuple[str, ...]
    steps: int
    examples: int
    truncated: int = 0
    unsupervised: int = 0


class TaskDataRecord(Part):
    """What became of a task's rows and of the training examples made of them.

    Attributes:
        train_examples: Training examples, without those that had nothing to learn from.
        test_examples: Test examples.
        truncated: Training examples that were cut to the maximal length.
        unsupervised: Training examples left out because nothing supervised was left of them.
        test_prompts_trained: Test examples whose prompt is among the training examples, and
        test_examples_trained: those of them whose answer is the same too; ``None`` in records made
            before they were counted.
        prompts_cut: Test examples whose prompt lost its beginning, because it was too long.
        answers_cut: For each row of the score matrix, the answers that had not ended after the
            most tokens they may have; empty for a task without generated answers.
        rows_read: For each split, the rows that its file or hub data set holds; empty for a
            generated task.
        skipped_rows: For each split that has any, the rows that made no example, by reason.
    """

    train_examples: int
    test_examples: int
    truncated: int = 0
    unsupervised: int = 0
    test_prompts_trained: int | None = None
    test_examples_trained: int | None = None
    prompts_cut: int = 0
    answers_cut: dict[str, int] = Field(default_factory=dict)
    rows_read: dict[str, int] = Field(default_factory=dict)
    skipped_rows: dict[str, dict[str, int]] = Field(default_factory=dict)


class ScoreColumn(Part):
    """A column of the score matrix.

    Attributes:
        metric: The task's primary metric.
        learned_at: The row right after the task was last trained on; ``None`` if there is no such
            moment (mixed stream).
        first_learned_at: The row right after the first experience that trained it. It is another
            row than ``learned_at`` where a stream comes back to the task.
        untrained_until: The last row before it was first trained on; ``None`` if it never was.
        budget: What the stream spends on its training, in budgets of one task alone.

    Records made before the last three were kept are of streams that train every task once.
    """

    task: str
    metric: str
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
        for name, table in (("values", self.values), ("standard_errors", self.standard_errors)):
            if len(table) != len(self.rows) or any(len(r) != len(self.columns) for r in table):
                raise ValueError(
                    f"{name} must have {len(self.rows)} rows of {len(self.columns)} numbers"
                )
        if len(self.n) != len(self.columns):
            raise ValueError(f"n must have {len(self.columns)} numbers")
        for column in self.columns:
            moments = (column.untrained_until, column.first_learned_at, column.learned_at)
            known = [moment for moment in moments if moment is not None]
            if known != sorted(known):
                raise ValueError(f"task {column.task!r} is learned before it is trained")
            if known and not 0 <= known[0] <= known[-1] < len(self.rows):
                raise ValueError(f"learned_at lies outside a matrix of {len(self.rows)} rows")
        return self


class ConflictPoint(Part):
    """Cosines between the tasks' gradients at one point of evaluation."""

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


class Retention(Part):
    """Negative log-likelihood of a general held-out text, in nats a token."""

    nll_before: Number = None
    nll_after: Number = None
    tokens: int


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
    """What a judge graded at one point of evaluation: ``row`` as in the score matrix."""

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


class Cost(Part):
    """What the run cost.

    Attributes:
        training_seconds: Wall-clock time of training, evaluations not included.
        evaluation_seconds: Wall-clock time of all evaluations.
        total_seconds: Wall-clock time of everything, loading included.
        tokens_trained: Tokens of all training batches, without padding.
        tokens_per_second: While training.
        peak_memory_bytes: Largest memory of the process, or of the GPU.
        extra_state_bytes: What the strategy keeps beside model and optimizer, at its largest.
        trainable_parameters: Parameters that get a gradient.
        total_parameters: Of the model being trained.
    """

    training_seconds: float
    evaluation_seconds: float
    total_seconds: float
    tokens_trained: int
    tokens_per_second: Number = None
    peak_memory_bytes: int | None = None
    extra_state_bytes: int = 0
    trainable_parameters: int
    total_parameters: int


class LossPoint(Part):
    """Training loss at a step, in nats a token; ``None`` if it was not a number."""

    step: int
    loss: Number


class Fingerprints(Part):
    """Hashes of what the specification only names.

    Attributes:
        model: Of the model's files.
        tasks: For each task of its examples, its card, its scoring and the code of a plugin.
        chat_template: Of the template's text.
        plugins: Of the source of each plugin that took part, by ``strategy:NAME``, ``task:NAME``
            and ``stream:NAME``.
        plugin: Of the strategy's file, in records made before ``plugins`` was kept.
    """

    model: str
    tasks: dict[str, str]
    chat_template: str
    plugins: dict[str, str] = Field(default_factory=dict)
    plugin: str | None = None


class Environment(Part):
    """Where and with what the run was made.

    Attributes:
        packages: Installed versions by name.
        processor: As the system calls it.
        device: Such as ``"cpu"`` or the name of the GPU.
        processes: Training processes.
        threads: CPU threads of torch in each of them.
        git_sha: Commit of the checkout; ``None`` for an installation that is none.
        git_dirty: Whether its files were changed.
        deterministic: Whether torch was told to use deterministic algorithms.
        matmul_precision: Of float32 matrix products, as torch calls it; ``None`` in records made
            before runs set it.
        execution: What of the process counts in the run's identity; empty for one plain process on
            the CPU.
        started_at: ISO 8601 with time zone.
    """

    packages: dict[str, str]
    python: str
    platform: str
    processor: str
    device: str
    processes: int = 1
    threads: int
    git_sha: str | None = None
    git_dirty: bool | None = None
    deterministic: bool
    matmul_precision: str | None = None
    execution: dict[str, JsonValue] = Field(default_factory=dict)
    started_at: str


class RunRecord(Part):
    """The result of a run.

    Attributes:
        error: Why a failed run failed; ``None`` for a finished one.
        task_order: The tasks as the stream ordered them.
        task_data: For each task what became of its rows and examples.
        secondary_scores: For each task every metric of the last row, in the task's own units.
        secondary_standard_errors: Of ``secondary_scores``, over the test items; records made before
            they were kept have none.
        secondary_units: For each task the units of those that are no shares from 0 to 1. Not named
            are the loss of the reference (nats a token) and the judge's grade (0 to 10).
        item_scores: For each task the primary metric of each test item in the last row, 0..100,
            packed by :func:`pack_items`.
        reference_scores: For each task the score of full fine-tuning on it alone, if measured.
        metrics: What :func:`epi_bench.metrics.derive_metrics` returns.
        skipped_steps: Steps whose gradients were not finite, so that nothing was updated.
        moved_weights: Share of the weights that training could move whose value in the saved model
            differs from the loaded one, in 0..1 (for an adapter that is merged: of the layers it
            is merged into); an estimate above two million weights. Records made before it was
            measured have none.
        default_chat_template: Whether the tokenizer brought no chat template of its own.
        judge: A judge model's grades, if one was asked. It is no part of ``spec``: the same run may
            be recorded with and without.
    """

    schema_version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    status: Literal["finished", "failed"]
    error: str | None = None
    spec: RunSpec
    strategy: StrategyRecord
    track: Track
    task_order: tuple[str, ...]
    experiences: tuple[ExperienceRecord, ...] = ()
    task_data: dict[str, TaskDataRecord] = Field(default_factory=dict)
    score_matrix: ScoreMatrixRecord | None = None
    secondary_scores: dict[str, dict[str, Number]] = Field(default_factory=dict)
    secondary_standard_errors: dict[str, dict[str, Number]] = Field(default_factory=dict)
    secondary_units: dict[str, dict[str, str]] = Field(default_factory=dict)
    item_scores: dict[str, str] = Field(default_factory=dict)
    reference_scores: dict[str, Number] | None = None
    metrics: dict[str, int | Number] = Field(default_factory=dict)
    gradient_conflict: GradientConflictRecord | None = None
    mask_statistics: tuple[Diagnostics, ...] = ()
    retention: Retention | None = None
    judge: JudgeRecord | None = None
    cost: Cost | None = None
    losses: tuple[LossPoint, ...] = ()
    fingerprints: Fingerprints
    skipped_steps: int = 0
    moved_weights: float | None = Field(default=None, ge=0, le=1)
    default_chat_template: bool = False
    environment: Environment

    @model_validator(mode="after")
    def _status_fits(self) -> Self:
        if self.status == "failed":
            if not self.error:
                raise ValueError("a failed run must say its error")
            return self
        if self.error is not None:
            raise ValueError("a finished run has no error")
        missing = [part for part in ("score_matrix", "cost") if getattr(self, part) is None]
        if missing or not self.metrics:
            raise ValueError(f"a finished run needs {', '.join(missing) or 'metrics'}")
        return self


def pack_items(scores: Mapping[str, float | None]) -> str:
    """Item scores as text: JSON, compressed by zlib, in base64.

    Args:
        scores: By item id, 0..100.
    """
    cleaned = {item: _finite_or_none(score) for item, score in scores.items()}
    content = json.dumps(cleaned, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(content.encode(), 9)).decode("ascii")


def unpack_items(packed: str) -> dict[str, float | None]:
    """The item scores that :func:`pack_items` packed.

    Raises:
        UserError: If the text is damaged.
    """
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(base64.b64decode(packed, validate=True), MAX_ITEM_BYTES)
        if not decompressor.eof:
            raise ValueError("too long or cut off")
        scores = json.loads(content)
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"packed item scores are damaged: {error}") from error
    if not isinstance(scores, dict):
        raise UserError("packed item scores are damaged: they are no JSON object")
    return scores
