"""What a leaderboard can show and rank by: every metric and cost with its name and formula."""

from __future__ import annotations

from dataclasses import dataclass

from epi_bench.errors import unknown_name
from epi_bench.results.record.run_record import RunRecord

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that every run has, or leaves undefined.

    Attributes:
        name: As in the record's ``metrics`` or ``cost``, or of a field of the record itself.
        title: As a column is headed.
        formula: One line for the legend.
        higher_is_better: Which direction wins.
        decimals: Shown in tables.
        cost: Whether it is a cost, not a metric.
        diagnostic: Whether it is a field of the record itself that tells whether to trust the run;
            no value of it is the best.
        divisor: Values are divided by it where they are shown to a reader.
        optional: Whether CSV has its columns only where a run defines it. It was added later, and
            the tables of older runs stay as they are.
    """

    name: str
    title: str
    formula: str
    higher_is_better: bool
    decimals: int = 1
    cost: bool = False
    diagnostic: bool = False
    divisor: float = 1.0
    optional: bool = False

    def of(self, record: RunRecord) -> float | None:
        """The measure of one run in the record's unit; ``None`` if it is undefined there."""
        if self.cost:
            value = None if record.cost is None else getattr(record.cost, self.name)
        elif self.diagnostic:
            value = getattr(record, self.name)
        else:
            value = record.metrics.get(self.name)
        return None if value is None else float(value)


_ALL = (
    Measure("average_accuracy", "average accuracy", "mean of R[T,i]", True),
    Measure("backward_transfer", "backward transfer", "mean over i<T of R[T,i] - R[i,i]", True),
    Measure(
        "forgetting", "forgetting", "mean over i<T of (max over i<=l<T of R[l,i]) - R[T,i]", False
    ),
    Measure("learning_accuracy", "learning accuracy", "mean of R[i,i]", True),
    Measure(
        "task_retention",
        "task retention",
        "mean of R[T,j] - R[0,j] over the eval tasks j, which are never trained",
        True,
        optional=True,
    ),
    Measure(
        "worst_task_retention",
        "worst task retention",
        "min over the eval tasks j of R[T,j] - R[0,j]",
        True,
        optional=True,
    ),
    Measure("intransigence", "intransigence", "mean of S_i - R[i,i]", False),
    Measure("interference", "interference", "mean of S_i - R[T,i] after joint training", False),
    Measure(
        "average_normalised_score",
        "normalised score",
        "mean of (R[T,i] - R[0,i]) / (S_i - R[0,i]) where S_i > R[0,i]",
        True,
        decimals=2,
    ),
    Measure(
        "gradient_conflict",
        "gradient conflict",
        "share of task pairs whose gradients have a negative cosine",
        False,
        decimals=2,
    ),
    Measure(
        "general_retention",
        "general loss",
        "nats a token on general text, after minus before",
        False,
        decimals=3,
    ),
    Measure(
        "kl_to_base",
        "KL to base",
        "KL(base || model) in nats a token, on test examples of the tasks trained last",
        False,
        decimals=3,
        optional=True,
    ),
    Measure(
        "training_seconds", "training seconds", "wall-clock time of training", False, cost=True
    ),
    Measure(
        "extra_state_bytes",
        "extra state MB",
        "what the strategy keeps beside model and optimizer, 2^20 bytes",
        False,
        cost=True,
        divisor=MEBIBYTE,
    ),
    Measure(
        "moved_weights",
        "moved weights %",
        "weights that training could move and that differ in the saved model",
        True,
        diagnostic=True,
        divisor=0.01,
    ),
    Measure(
        "worst_task_drop", "worst task drop", "min over i of R[T,i] - max(R[0,i], R[i,i])", True
    ),
    Measure(
        "forgetting_rate",
        "forgetting rate %",
        "mean over i<T of 100 (R[i,i] - R[T,i]) / R[i,i] where R[i,i] > R[0,i]",
        False,
    ),
    Measure("forward_transfer", "forward transfer", "mean over i>1 of R[i-1,i] - R[0,i]", True),
    Measure("interference_worst", "worst interference", "max of S_i - R[T,i]", False),
    Measure(
        "average_normalised_score_left_out",
        "tasks left out of the normalised score",
        "number of tasks with S_i <= R[0,i]",
        False,
    ),
    Measure(
        "forgetting_rate_left_out",
        "tasks left out of the forgetting rate",
        "number of tasks with R[i,i] <= R[0,i]",
        False,
    ),
    Measure("gradient_cosine", "gradient cosine", "mean over task pairs", True, decimals=2),
    Measure(
        "evaluation_seconds", "evaluation seconds", "wall-clock time of scoring", False, cost=True
    ),
    Measure(
        "tokens_per_second", "tokens per second", "while training", True, decimals=0, cost=True
    ),
    Measure(
        "peak_memory_bytes",
        "peak memory MB",
        "largest memory of the process or the GPU, 2^20 bytes",
        False,
        decimals=0,
        cost=True,
        divisor=MEBIBYTE,
    ),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
"""By name, the most telling ones first; the order is that of the columns."""

COLUMNS: tuple[str, ...] = tuple(MEASURES)[:15]
"""The measures shown in tables, where a run defines them; CSV and JSON hold all of them."""


def find_measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        UserError: If there is none; the closest names are given.
    """
    if name not in MEASURES:
        raise unknown_name("metric", name, MEASURES)
    return MEASURES[name]
