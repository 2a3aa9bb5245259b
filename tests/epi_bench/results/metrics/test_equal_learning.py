"""What is kept at equal learning, against values by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epi_bench.results.metrics.equal_learning import Outcome, best_outcomes, kept_at

SWEEP = [Outcome(90, -60), Outcome(0, 0), Outcome(50, -10), Outcome(40, -20)]
"""Four learning rates; the one that learned 40 is beaten by the one that learned 50."""

OUTCOMES = st.builds(Outcome, st.integers(0, 100), st.integers(-100, 0))


@pytest.mark.parametrize(
    ("learned", "kept"),
    [(0, 0), (25, -5), (40, -8), (50, -10), (60, -22.5), (90, -60), (95, -60), (-5, 0)],
)
def test_between_two_runs_it_is_the_straight_line(learned, kept):
    assert kept_at(SWEEP, learned) == pytest.approx(kept)


def test_of_runs_that_learned_the_same_the_better_counts():
    assert best_outcomes([Outcome(50, -30), Outcome(50, -10)]) == [Outcome(50, -10)]
    assert kept_at([Outcome(50, -30), Outcome(50, -10)], 50) == -10


@given(st.lists(OUTCOMES, min_size=1), st.integers(0, 100))
def test_what_is_kept_never_rises_with_what_is_learned(outcomes, learned):
    assert kept_at(outcomes, learned) >= kept_at(outcomes, learned + 1)


@given(st.lists(OUTCOMES, min_size=1))
def test_no_run_of_the_curve_keeps_more_than_the_curve_says(outcomes):
    assert all(kept_at(outcomes, outcome.learned) >= outcome.kept for outcome in outcomes)
