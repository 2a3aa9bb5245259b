"""What a run's measurements keep, by hand."""

from __future__ import annotations

import pytest

from epi_bench.evaluation.scores import TaskScores
from epi_bench.runs.measurements import LOSS_EVERY, Measurements
from epi_bench.task.example import Prediction


def test_the_loss_curve_has_a_point_every_ten_steps_and_at_the_end_of_an_experience():
    """Losses 1, 2, ... in experiences of 12 and 10 steps: 10, 12, 20 and 22."""
    measured = Measurements()
    points = [
        step
        for step in range(1, 23)
        if measured.note_step(step, float(step), ends_experience=step in (12, 22))
    ]
    assert LOSS_EVERY == 10
    assert points == [10, 12, 20, 22]
    assert measured.losses == [(10, 5.5), (12, 11.5), (20, 16.5), (22, 21.5)]


def test_a_loss_that_is_not_a_number_spoils_its_own_point_alone():
    measured = Measurements()
    for step in range(1, 21):
        measured.note_step(step, float("nan") if step == 3 else 2.0, ends_experience=False)
    (_, first), (_, second) = measured.losses
    assert first != first
    assert second == 2.0


def scored(text):
    return {"a": TaskScores((100.0,), {"acc": 1.0}, {}, (Prediction(text),), ({"acc": 1.0},), 1)}


def test_answers_are_kept_of_the_last_row_alone():
    measured = Measurements()
    for row, text in (("base", "first"), ("a", "second")):
        measured.note_row(row, scored(text))
        assert measured.answers["a"].predictions[0].text == text
    assert [row.name for row in measured.rows] == ["base", "a"]
    for row in measured.rows:
        found = row.scores["a"]
        assert (found.mean, found.answers_cut) == (100.0, 1)
        assert (found.predictions, found.results) == ((), ())


@pytest.mark.parametrize("values", [{}, {"achieved_ratio": 0.5}])
def test_a_strategy_that_reports_nothing_leaves_no_diagnostics(values):
    measured = Measurements()
    assert measured.note_diagnostics(7, values) is bool(values)
    assert measured.diagnostics == ([(7, values)] if values else [])


def test_what_was_noted_does_not_change_with_what_the_strategy_keeps():
    measured, values = Measurements(), {"achieved_ratio": 0.5}
    measured.note_diagnostics(1, values)
    values["achieved_ratio"] = 0.0
    assert measured.diagnostics == [(1, {"achieved_ratio": 0.5})]
