"""The confusion matrix and the balanced accuracy, by hand and beside scikit-learn."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.results.metrics import confusion
from epi_bench.results.metrics.confusion import balanced_accuracy, confusion_counts

LABELS = ("a", "b", "c")


def test_hand_computed():
    counts = confusion_counts(LABELS, ["a", "a", "b", "c"], ["a", "b", "b", "a"])
    assert counts == ((1, 1, 0), (0, 1, 0), (1, 0, 0))
    assert balanced_accuracy(counts) == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)


def test_labels_without_items_do_not_count():
    assert balanced_accuracy(((2, 2, 0), (0, 0, 0), (0, 0, 4))) == 75.0
    assert balanced_accuracy(((0, 0), (0, 0))) is None


def test_the_examples_of_the_docstrings_hold():
    found = doctest.testmod(confusion)
    assert found.attempted == 2
    assert found.failed == 0


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label")
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_agrees_with_scikit_learn(pairs):
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix

    right, chosen = zip(*pairs, strict=True)
    counts = confusion_counts(LABELS, right, chosen)
    assert [list(row) for row in counts] == confusion_matrix(right, chosen, labels=LABELS).tolist()
    expected = 100 * balanced_accuracy_score(right, chosen)
    assert balanced_accuracy(counts) == pytest.approx(expected)
