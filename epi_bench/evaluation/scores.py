"""A task's scores: item by item, and their mean with its standard error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from epi_bench.results.metrics.statistics import standard_error
from epi_bench.results.record.scores import Confusion
from epi_bench.task.example import Prediction


@dataclass(frozen=True, slots=True)
class TaskScores:
    """How a model did on one task.

    >>> scores = TaskScores(items=(100.0, 0.0, 100.0, 0.0), metrics={"exact_match": 0.5})
    >>> scores.mean, round(scores.standard_error, 2)
    (50.0, 28.87)

    Attributes:
        items: Primary metric of each test item, 0..100, in the examples' order.
        metrics: Mean of every metric the task reports, in the task's own units.
        metric_errors: Standard error of each of these means; ``None`` for a single item.
        predictions: What the model said to each item; empty if it was not kept.
        results: Metrics of each item as the task returned them; empty if they were not kept.
        answers_cut: How many answers had not ended after the most tokens they may have.
        confusion: Which labels were chosen, for a task that labels texts.
    """

    items: tuple[float, ...]
    metrics: Mapping[str, float]
    metric_errors: Mapping[str, float | None] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    results: tuple[Mapping[str, float], ...] = ()
    answers_cut: int = 0
    confusion: Confusion | None = None

    @property
    def mean(self) -> float:
        """The task's score, 0..100."""
        return sum(self.items) / len(self.items)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over items; ``None`` for a single item."""
        return standard_error(self.items)

    def without_predictions(self) -> TaskScores:
        """The same scores without what they were computed from."""
        return replace(self, predictions=(), results=())
