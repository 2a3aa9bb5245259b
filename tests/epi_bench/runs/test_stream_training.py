"""The order in which a run trains, scores and reports."""

from __future__ import annotations

import json

import pytest

from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest


class Witness(RunObserver):
    """Writes down stages, rows and steps in the order in which they come."""

    def __init__(self):
        self.events = []

    def stage(self, name):
        self.events.append(name)

    def scored(self, row, scores):
        self.events.append(f"row {row}")

    def step_done(self, report):
        self.events.append(f"step {report.number} of {report.total}")

    def diagnostics(self, step, values):
        self.events.append(f"diagnostics {step}")


def events_of(run_toy, *arguments, **keywords):
    witness = Witness()
    record = run_toy(*arguments, observer=witness, **keywords).record
    assert record.status == "finished"
    return witness.events, record


def test_a_sequential_stream(run_toy):
    events, record = events_of(run_toy, "epi", {"warmup": 1, "interval": 1}, steps=2)
    assert events == [
        "starting", "reading data", "loading the model",
        "scoring", "row base",
        "training toy_first", "step 1 of 4", "step 2 of 4", "diagnostics 2",
        "scoring", "row toy_first",
        "training toy_second", "step 3 of 4", "step 4 of 4", "diagnostics 4",
        "scoring", "row toy_second",
    ]  # fmt: skip
    assert [diagnostics.step for diagnostics in record.mask_statistics] == [2, 4]
    assert [point.step for point in record.losses] == [2, 4]
    assert [point.row for point in record.gradient_conflict.points] == ["toy_first", "toy_second"]


def test_a_mixed_stream_is_scored_in_its_middle(run_toy):
    events, record = events_of(run_toy, stream={"kind": "mixed"}, steps=3)
    assert events[5:] == [
        "training mixed", "step 1 of 6", "step 2 of 6", "step 3 of 6",
        "scoring", "row mixed step 3",
        "step 4 of 6", "step 5 of 6", "step 6 of 6",
        "scoring", "row mixed",
    ]  # fmt: skip
    assert record.score_matrix.rows == ("base", "mixed step 3", "mixed")


def test_the_log_holds_what_the_finished_model_said(run_toy):
    """The answers of the last row, whose metrics are the record's item scores."""
    outcome = run_toy(steps=2, request={"log_predictions": True})
    lines = outcome.path.with_name("predictions.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["task"], line["item"]) for line in found] == [
        (task, item) for task in ("toy_first", "toy_second") for item in range(14)
    ]
    matrix = outcome.record.score_matrix
    second = [100 * line["metrics"]["exact"] for line in found if line["task"] == "toy_second"]
    assert sum(second) / len(second) == pytest.approx(matrix.values[-1][1])


def test_a_saved_model_scores_as_the_record_says(run_toy, toy_spec, tmp_path):
    """Trained, saved with tokenizer and general text, and loaded as the model of another run."""
    trained = run_toy(steps=2, request={"save_model": tmp_path / "model"}).record
    folder = tmp_path / "model"
    assert (folder / "general_text.txt").is_file()
    assert (folder / "tokenizer.json").is_file()
    spec = toy_spec(steps=1)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"name": str(folder)})})
    again = run_one(spec, RunRequest(Workspace(tmp_path / "again")), RunObserver()).record
    assert again.score_matrix.values[0] == trained.score_matrix.values[-1]
    assert again.retention.nll_before == pytest.approx(trained.retention.nll_after, rel=1e-6)
