"""Which labels a model takes for which, where a task has the same labels for every example."""

from __future__ import annotations

from collections.abc import Sequence

from epi_bench.results.metrics.confusion import confusion_counts
from epi_bench.results.record.scores import Confusion
from epi_bench.task.example import Example, Prediction
from epi_bench.task.task import Task, chosen_options

MOST_LABELS = 100
"""With more labels the matrix would be larger than the rest of a record."""


def confusion_of(
    task: Task, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Confusion | None:
    """The confusion matrix of a task that chooses a label.

    The chosen label is the one that the primary metric looks at: after division by the length of
    the labels for ``acc_norm``, else the likeliest.

    Args:
        task: Gives the way of scoring.
        examples: What was asked.
        predictions: In the same order.

    Returns:
        ``None`` for tasks that do not choose, whose options differ from example to example (as of
        questions about a text), or that have more than :data:`MOST_LABELS` labels.
    """
    if task.card.scoring != "choice":
        return None
    labels = examples[0].options
    if len(labels) > MOST_LABELS or any(set(e.options) != set(labels) for e in examples):
        return None
    normalised = task.card.metric == "acc_norm"
    chosen = [
        chosen_options(example, prediction)[normalised]
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    counts = confusion_counts(labels, [example.reference for example in examples], chosen)
    return Confusion(labels=labels, counts=counts)
