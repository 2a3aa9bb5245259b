"""Measurements survive a checkpoint: as JSON, and back, to the last bit."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from time import perf_counter

import numpy as np
import pytest

from epi_bench.evaluation.gradient_conflict import ConflictMeasurement
from epi_bench.evaluation.judge.judge import JudgedScores
from epi_bench.evaluation.scores import TaskScores
from epi_bench.results.record.scores import Confusion
from epi_bench.runs.measured_state import measurements_to_json, take_up_measurements
from epi_bench.runs.measurements import GradedRow, MeasuredDivergence, Measurements
from epi_bench.strategy.stiffness_shares import PartShare
from epi_bench.task.example import Prediction


def measured():
    found = Measurements(evaluation_seconds=1.25, peak_memory_before=7)
    scores = {
        "a": TaskScores(
            items=(100.0, 0.1 + 0.2),
            metrics={"exact": 1 / 3},
            metric_errors={"exact": None},
            predictions=(
                Prediction("Zoë \ud800", option_log_likelihoods=(-0.1, -math.inf)),
                Prediction(correct_tokens=(True, False), is_cut=True),
            ),
            results=({"exact": 1, "right": True}, {"exact": np.float32(0.5), "right": False}),
            answers_cut=1,
            confusion=Confusion(labels=("x", "y"), counts=((1, 0), (0, 1))),
        )
    }
    found.note_row("base", scores)
    found.scored["b"] = TaskScores(items=(5.0,), metrics={})
    found.divergences.append(MeasuredDivergence("a", ("a", "b"), 0.1 + 0.2, 7, 64))
    found.conflicts.append(ConflictMeasurement([[1.0, None], [None, 1.0]], 12))
    for step, loss in enumerate([2.0, 0.1, 0.7], start=1):
        found.note_step(step, loss, ends_experience=step == 2)
    found.note_diagnostics(2, {"achieved_ratio": 0.3})
    found.note_stiffness(1, {"mlp": PartShare(0.75, 0.1 + 0.2), "layer_0": PartShare(0.5, 1.0)})
    found.text_before = (3.5, 99)
    found.judged.append(GradedRow("base", {"a": JudgedScores((7.0, None))}))
    return found


def restored(found):
    again = Measurements()
    take_up_measurements(again, json.loads(json.dumps(measurements_to_json(found))))
    return again


def test_what_was_measured_comes_back():
    found, again = measured(), restored(measured())
    known = {"started", "started_at"}
    for name in {field.name for field in fields(Measurements)} - known:
        assert getattr(again, name) == getattr(found, name), name


def test_numbers_keep_their_kind():
    """1 stays 1: predictions.jsonl shows what the task gave."""
    [first, second] = restored(measured()).answers["a"].results
    assert json.dumps([first, second]) == (
        '[{"exact": 1, "right": true}, {"exact": 0.5, "right": false}]'
    )


def test_the_loss_curve_goes_on_within_its_window():
    again = restored(measured())
    assert again.losses == [(2, 1.05)]
    again.note_step(4, 0.9, ends_experience=True)
    assert again.losses[-1] == (4, pytest.approx(0.8))


def test_time_goes_on():
    found = measured()
    found.started -= 100
    again = restored(found)
    assert again.started_at == found.started_at
    assert 100 <= perf_counter() - again.started < 160
