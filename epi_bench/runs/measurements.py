"""What is measured while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.evaluation.gradient_conflict import ConflictMeasurement
    from epi_bench.evaluation.judge.judge import JudgedScores
    from epi_bench.evaluation.scores import TaskScores


@dataclass
class Measurements:
    """What is measured while a run goes on.

    Attributes:
        rows: Name of each scored point and the scores of every task there, the base model first.
        conflicts: Gradient conflict at each point, in the order of ``rows``.
        losses: Step and mean loss of the last :data:`LOG_EVERY` steps.
        diagnostics: Step and what the strategy reported.
        retention: Negative log-likelihood of the general text before and after, and its tokens.
        judged: Name of the base row and of the last one, and the judge's grades of each task there.
        moved_weights: Share of the weights that training has moved, as the model is saved.
        prompts_cut: Test examples of each task whose prompt was too long.
    """

    rows: list[tuple[str, dict[str, TaskScores]]] = field(default_factory=list)
    conflicts: list[ConflictMeasurement] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    diagnostics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    retention: tuple[float, float, int] | None = None
    judged: list[tuple[str, dict[str, JudgedScores]]] = field(default_factory=list)
    moved_weights: float | None = None
    prompts_cut: dict[str, int] = field(default_factory=dict)
