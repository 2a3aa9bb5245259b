"""The record of what was prepared and what was measured, by hand."""

from __future__ import annotations

import pytest

from epi_bench.evaluation.scores import TaskScores
from epi_bench.results.record.scores import Retention
from epi_bench.runs.measurements import Measurements
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.recording import build_failed_record, build_record
from epi_bench.training.cost import TrainingCost


@pytest.fixture
def prepared(toy_spec):
    return prepare_run(toy_spec("epi", {"ratio": 0.25}))


def measurements(**changes):
    """Scores of 0 and 10, then 80 and 20, then 60 and 90; two test items each."""
    measured = Measurements(
        total_parameters=7,
        training=TrainingCost(
            seconds=2.0, tokens=300, supervised_tokens=100, skipped_steps=1, trained_parameters=5
        ),
        evaluation_seconds=3.0,
        retention=Retention(nll_before=4.0, nll_after=5.0, tokens=1000),
        **changes,
    )
    for row, scores in (("base", (0, 10)), ("toy_first", (80, 20)), ("toy_second", (60, 90))):
        measured.note_row(
            row,
            {
                task: TaskScores((score + 1.0, score - 1.0), {"acc": score / 100}, {"acc": 0.1})
                for task, score in zip(("toy_first", "toy_second"), scores, strict=True)
            },
        )
    return measured


def test_a_record_by_hand(prepared):
    record = build_record(prepared, measurements())
    assert (record.run_id, record.status) == (prepared.run_id, "finished")
    assert record.score_matrix.rows == ("base", "toy_first", "toy_second")
    assert record.score_matrix.values == ((0, 10), (80, 20), (60, 90))
    assert record.score_matrix.n == (2, 2)
    assert record.score_matrix.standard_errors == ((1, 1),) * 3  # of two values one apart each
    assert record.metrics["average_accuracy"] == 75
    assert record.metrics["backward_transfer"] == -20
    assert record.metrics["forward_transfer"] == 10
    assert record.metrics["intransigence"] is None
    assert record.secondary_scores == {"toy_first": {"acc": 0.6}, "toy_second": {"acc": 0.9}}
    assert record.retention.nll_after == 5
    assert record.skipped_steps == 1
    assert record.strategy.hyperparameters["ratio"] == 0.25
    cost = record.cost
    assert (cost.training_seconds, cost.evaluation_seconds) == (2, 3)
    assert (cost.tokens_trained, cost.tokens_per_second) == (300, 150)
    assert (cost.trainable_parameters, cost.total_parameters) == (5, 7)
    assert cost.total_seconds >= 0


def test_references_add_the_metrics_that_need_them(prepared):
    references = {"toy_first": 90.0, "toy_second": 95.0}
    record = build_record(prepared, measurements(reference_scores=references))
    assert record.reference_scores == references
    assert record.metrics["intransigence"] == pytest.approx((90 - 80 + 95 - 90) / 2)


def test_a_failed_record_says_where_it_failed(prepared):
    """Device and processes are those that the run had, and so is the track."""
    record = build_failed_record(prepared, Measurements(processes=2, device="mps"), "no memory")
    assert (record.status, record.error) == ("failed", "no memory")
    assert (record.environment.processes, record.environment.device) == (2, "mps")
    alone = build_failed_record(prepared, Measurements(), "no memory")
    steps = [found.track.facts.examples_per_step for found in (record, alone)]
    assert steps == [16, 8]
