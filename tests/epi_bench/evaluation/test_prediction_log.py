"""The file of predictions beside a run's record."""

from __future__ import annotations

import json

import pytest

from epi_bench.results.record.items import unpack_items
from epi_bench.task.task import TASKS

TASK_NAMES = ["toy_first", "toy_second", "toy_choice"]


def _lines(outcome):
    text = (outcome.path.parent / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_item_of_the_last_row_has_a_line_that_its_scores_follow_from(run_toy):
    outcome = run_toy(tasks=TASK_NAMES, request={"log_predictions": True})
    record, lines = outcome.record, _lines(outcome)
    for name in TASK_NAMES:
        task = TASKS.get(name)()
        found = [line for line in lines if line["task"] == name]
        examples = task.examples("test")
        assert [line["item"] for line in found] == list(range(len(examples)))
        assert [line["reference"] for line in found] == [e.reference for e in examples]
        assert [line["prompt"] for line in found] == [list(e.prompt) for e in examples]
        scores = unpack_items(record.item_scores[name])
        metric = task.card.metric
        assert [100 * line["metrics"][metric] for line in found] == list(scores.values())
    by_task = {line["task"]: line for line in lines}
    assert all(c in (0, 1) for c in by_task["toy_first"]["correct_tokens"])
    assert isinstance(by_task["toy_second"]["text"], str)
    sums = by_task["toy_choice"]["option_log_likelihoods"]
    assert len(sums) == len(by_task["toy_choice"]["options"]) == 3
    assert max(sums) < 0
    losses = [
        line["reference_negative_log_likelihood"] for line in lines if line["task"] == "toy_second"
    ]
    secondary = record.secondary_scores["toy_second"]["reference_negative_log_likelihood"]
    assert sum(losses) / len(losses) == pytest.approx(secondary)
    assert record.secondary_standard_errors["toy_second"]["exact"] is not None


def test_a_finished_run_is_made_anew_only_if_its_predictions_are_missing(run_toy):
    first = run_toy()
    assert not (first.path.parent / "predictions.jsonl").exists()
    asked = run_toy(request={"log_predictions": True})
    assert not asked.skipped
    assert _lines(asked)
    assert asked.record.item_scores == first.record.item_scores
    assert run_toy(request={"log_predictions": True}).skipped
    assert run_toy().skipped
