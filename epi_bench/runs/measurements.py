"""What is measured while a run goes on: all that its record holds beside what was prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from epi_bench.results.record.scores import Retention, StiffnessShare
from epi_bench.training.cost import TrainingCost

if TYPE_CHECKING:
    from epi_bench.evaluation.gradient_conflict import ConflictMeasurement
    from epi_bench.evaluation.judge.judge import JudgedScores
    from epi_bench.evaluation.scores import TaskScores
    from epi_bench.strategy.stiffness_shares import PartShare

LOSS_EVERY = 10
"""Optimizer steps between two points of the loss curve, and between two steps of the event log."""


class ScoredRow(NamedTuple):
    """One row of the score matrix: its name and the scores of every task, without the answers."""

    name: str
    scores: Mapping[str, TaskScores]


class GradedRow(NamedTuple):
    """A judge's grades of one row of the score matrix, for each task that it judged."""

    name: str
    grades: Mapping[str, JudgedScores]


class MeasuredDivergence(NamedTuple):
    """How far the model was from the base model at a row of the score matrix.

    Attributes:
        row: Its name.
        tasks: The tasks on whose test examples it was measured.
        nats: Mean a token.
        tokens: How many.
        top: Tokens of the base model's distribution that stand for themselves.
    """

    row: str
    tasks: tuple[str, ...]
    nats: float
    tokens: int
    top: int


class CurvePoint(NamedTuple):
    """Scores of a model between the base model and the finished one.

    Attributes:
        alpha: Share of the finished weights, in 0..1.
        means: Score of each task, 0..100.
        errors: Their standard errors.
        loss: On the general text, in nats a token.
    """

    alpha: float
    means: Mapping[str, float | None]
    errors: Mapping[str, float | None]
    loss: float


class JudgeIdentity(NamedTuple):
    """Which judge graded: the model's name and the SHA-256 of its prompts."""

    model: str
    prompt_fingerprint: str


@dataclass
class Measurements:
    """What is measured while a run goes on.

    A run that fails leaves the rest at its default.

    Attributes:
        reference_scores: Single-task score of each task (0..100), where all are known.
        judge: Which judge grades, if one does.
        started_at: When the run began.
        started: The same as a reading of ``perf_counter``, in seconds.
        device: What is trained on, as torch names it: ``cpu``, ``cuda:0``.
        processes: Processes that train together.
        total_parameters: Of the model as it was loaded.
        training: Seconds, tokens and skipped steps of the training.
        evaluation_seconds: Of all scoring.
        rows: The scored points, the base model first.
        scored: Scores of the tasks that were scored since, for the row under way.
        answers: Scores of the last row with what the model said to each test item.
        conflicts: Gradient conflict at each point after the base model's.
        divergences: From the base model, at each row after its own.
        curve: Scores of the models between the base model and the finished one, where asked for.
        losses: Step, and mean loss (nats a token) of the steps since the point before.
        diagnostics: Step and what the strategy reported.
        stiffness: For each experience in which weights were drawn to earlier values, where in the
            model, by its position in the stream.
        text_before: Negative log-likelihood of a general text before training, in nats a token, and
            its tokens.
        retention: How well a general text is predicted, before and after.
        judged: The judge's grades of the base row and of the last one.
        moved_weights: Share of the weights that training has moved, in 0..1.
        prompts_cut: Test examples of each task whose prompt was too long.
        peak_memory_before: Largest memory of the processes that made the run before it was
            resumed, in bytes.
        resumed: How often the run has been resumed.

    Example:
        >>> measured = Measurements()
        >>> for step, loss in enumerate([4.0, 3.0, 2.0], start=1):
        ...     is_new_point = measured.note_step(step, loss, ends_experience=step == 3)
        >>> measured.losses
        [(3, 3.0)]
    """

    reference_scores: Mapping[str, float] | None = None
    judge: JudgeIdentity | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=perf_counter)
    device: str = "cpu"
    processes: int = 1
    total_parameters: int = 0
    training: TrainingCost = field(default_factory=TrainingCost)
    evaluation_seconds: float = 0.0
    rows: list[ScoredRow] = field(default_factory=list)
    scored: dict[str, TaskScores] = field(default_factory=dict)
    answers: Mapping[str, TaskScores] = field(default_factory=dict)
    conflicts: list[ConflictMeasurement] = field(default_factory=list)
    divergences: list[MeasuredDivergence] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    diagnostics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stiffness: dict[int, Mapping[str, StiffnessShare]] = field(default_factory=dict)
    text_before: tuple[float, int] | None = None
    retention: Retention | None = None
    judged: list[GradedRow] = field(default_factory=list)
    moved_weights: float | None = None
    prompts_cut: Mapping[str, int] = field(default_factory=dict)
    peak_memory_before: int = 0
    resumed: int = 0
    _losses_since: list[float] = field(default_factory=list, repr=False)

    def note_step(self, number: int, loss: float, *, ends_experience: bool) -> bool:
        """Take the loss of an optimizer step.

        Args:
            number: Of the step, from 1, over the whole run.
            loss: Mean loss of its supervised tokens, in nats.
            ends_experience: Whether it is the last of its experience.

        Returns:
            Whether the loss curve got a new point: every :data:`LOSS_EVERY` steps, and at the end
            of each experience.
        """
        self._losses_since.append(loss)
        if number % LOSS_EVERY and not ends_experience:
            return False
        mean = math.fsum(self._losses_since) / len(self._losses_since)
        self.losses.append((number, mean))
        self._losses_since.clear()
        return True

    def note_row(self, name: str, scores: Mapping[str, TaskScores]) -> None:
        """Take the scores of every task at a point of the run.

        Args:
            name: Of the row.
            scores: By task, with the model's answers. They are large: only those of the last row
                are kept.
        """
        slim = {task: found.without_predictions() for task, found in scores.items()}
        self.rows.append(ScoredRow(name, slim))
        self.answers = scores
        self.scored = {}

    def note_diagnostics(self, step: int, values: Mapping[str, float]) -> bool:
        """Take what the strategy reports after a step; ``False`` if that is nothing."""
        if values:
            self.diagnostics.append((step, dict(values)))
        return bool(values)

    def note_stiffness(self, experience: int, shares: Mapping[str, PartShare]) -> None:
        """Take where an experience's graded protection was; nothing where there was none.

        Args:
            experience: Its position in the stream, from 0; what was noted of it before is replaced.
            shares: As :func:`epi_bench.strategy.stiffness_shares.stiffness_shares` gives them.
        """
        if shares:
            self.stiffness[experience] = {
                part: StiffnessShare(**share._asdict()) for part, share in shares.items()
            }
