"""The published result of a run: one JSON file, versioned, written whole or not at all.

Everything that a table, a test or a plot needs is in it. Two runs of one specification give the
same record except for what :func:`comparable` leaves out: what they cost and where they ran.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from epi_bench.results.record.circumstances import (
    Cost,
    Environment,
    ExperienceRecord,
    Fingerprints,
    StrategyRecord,
    TaskDataRecord,
)
from epi_bench.results.record.part import Number, Part
from epi_bench.results.record.scores import (
    Confusion,
    Diagnostics,
    DivergenceRecord,
    EvalScoresRecord,
    GradedProtection,
    GradientConflictRecord,
    InterpolationRecord,
    JudgeRecord,
    LossPoint,
    Retention,
    ScoreMatrixRecord,
)
from epi_bench.results.record.track import Track
from epi_bench.spec.run_spec import RunSpec


class RunRecord(Part):
    """The result of a run.

    Attributes:
        schema_version: Of this format; it rises when a field changes its meaning.
        run_id: Hash of what determines the run's numbers; the name of its folder.
        status: ``finished``, or ``failed`` after training had begun.
        error: Why a failed run failed; ``None`` for a finished one.
        spec: Every setting of the run, as in its ``run.toml``.
        task_order: The tasks as the stream ordered them.
        task_data: For each task, trained or scored only, what became of its rows and examples.
        eval_scores: Scores of the tasks that were scored and never trained; ``None`` without any.
        experiences: What each experience trained on, in the order of the stream.
        secondary_scores: For each task, trained or scored only, every metric of the last row, in
            the task's own units.
        secondary_standard_errors: Of ``secondary_scores``, over the test items; records made before
            they were kept have none.
        secondary_units: For each task the units of those metrics that are not shares from 0 to 1.
            Not named are the loss of the reference (nats a token) and the judge's grade (0 to 10).
        item_scores: For each trained task the primary metric of each test item in the last row,
            0..100, packed by :func:`pack_items`.
        confusion: For each task that labels texts which labels the last row's model chose; records
            made before it was kept have none.
        reference_scores: For each task the score of full fine-tuning on it alone, if measured.
        metrics: What :func:`epi_bench.results.metrics.derived.derive_metrics` returns.
        skipped_steps: Steps whose gradients were not finite, so that nothing was updated.
        losses: Training loss at the steps that were logged.
        mask_statistics: What the strategy reported at its refreshes or at intervals.
        graded_protection: Where in the model weights were drawn to earlier values, one for each
            experience in which any were; records made before it was measured have none.
        kl_to_base: How far the model moved from the base model on the tasks that it learned;
            ``None`` where it was turned off, and in records made before it was measured.
        wise_ft: Scores of the models between the base model and the finished one; ``None`` where
            they were not asked for.
        moved_weights: Share of the weights that training could move whose value in the saved model
            differs from the loaded one, in 0..1 (for an adapter that is merged: of the layers it
            is merged into); an estimate above two million weights. Records made before it was
            measured have none.
        default_chat_template: Whether the tokenizer brought no chat template of its own.
        judge: A judge model's grades, if one was asked. It is not part of ``spec``: the same run
            may be recorded with and without.
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
    eval_scores: EvalScoresRecord | None = None
    secondary_scores: dict[str, dict[str, Number]] = Field(default_factory=dict)
    secondary_standard_errors: dict[str, dict[str, Number]] = Field(default_factory=dict)
    secondary_units: dict[str, dict[str, str]] = Field(default_factory=dict)
    item_scores: dict[str, str] = Field(default_factory=dict)
    confusion: dict[str, Confusion] = Field(default_factory=dict)
    reference_scores: dict[str, Number] | None = None
    metrics: dict[str, int | Number] = Field(default_factory=dict)
    gradient_conflict: GradientConflictRecord | None = None
    mask_statistics: tuple[Diagnostics, ...] = ()
    graded_protection: tuple[GradedProtection, ...] = ()
    retention: Retention | None = None
    kl_to_base: DivergenceRecord | None = None
    wise_ft: InterpolationRecord | None = None
    judge: JudgeRecord | None = None
    cost: Cost | None = None
    losses: tuple[LossPoint, ...] = ()
    fingerprints: Fingerprints
    skipped_steps: int = 0
    moved_weights: float | None = Field(default=None, ge=0, le=1)
    default_chat_template: bool = False
    environment: Environment

    @property
    def scored_tasks(self) -> tuple[str, ...]:
        """The trained tasks as the stream ordered them, then those that were scored only."""
        untrained = self.eval_scores.columns if self.eval_scores else ()
        return (*self.task_order, *(column.task for column in untrained))

    @property
    def final_scores(self) -> dict[str, float | None]:
        """The last row of the score matrix by task, 0..100; empty without a matrix."""
        matrix = self.score_matrix
        if matrix is None:
            return {}
        tasks = [column.task for column in matrix.columns]
        return dict(zip(tasks, matrix.values[-1], strict=True))

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
