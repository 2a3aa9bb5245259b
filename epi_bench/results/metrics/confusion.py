"""Which labels a model takes for which: the confusion matrix and what follows from it.

Counting pairs needs no library; the tests hold the results against scikit-learn, whose import
would take a second of each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Counts = tuple[tuple[int, ...], ...]
"""``counts[right][chosen]``: how many items with one label got which; labels in a fixed order."""


def confusion_counts(labels: Sequence[str], right: Sequence[str], chosen: Sequence[str]) -> Counts:
    """The confusion matrix.

    Args:
        labels: In the order of rows and columns.
        right: The right label of each item.
        chosen: The label that was chosen for it, in the same order.

    >>> confusion_counts(("no", "yes"), ["no", "yes", "yes"], ["no", "no", "yes"])
    ((1, 0), (1, 1))
    """
    pairs = Counter(zip(right, chosen, strict=True))
    return tuple(tuple(pairs[row, column] for column in labels) for row in labels)


def balanced_accuracy(counts: Counts) -> float | None:
    """Mean over the labels of the share of their items that were labelled right, 0..100.

    Unlike the accuracy it does not rise when a model only learns which label is the most frequent.
    Labels without items do not count; ``None`` if no label has any.

    >>> balanced_accuracy(((9, 0), (1, 0)))  # 90 % are right, all of them of one label
    50.0
    """
    recalls = [row[label] / sum(row) for label, row in enumerate(counts) if sum(row)]
    return 100 * sum(recalls) / len(recalls) if recalls else None
