"""What became of the rows and examples of a run's tasks, for its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from epi_bench.results.record.circumstances import TaskDataRecord
from epi_bench.runs.examples import EVAL_SPLITS
from epi_bench.task.dataset_task import DatasetTask
from epi_bench.task.rows.source import SPLITS, Split

if TYPE_CHECKING:
    from epi_bench.runs.measurements import Measurements
    from epi_bench.runs.prepared import PreparedRun, PreparedTask, ScoredTask
    from epi_bench.task.split_overlap import SplitOverlap


def task_data(prepared: PreparedRun, measured: Measurements) -> dict[str, TaskDataRecord]:
    """For each task, trained or scored only, what became of its rows and examples.

    Args:
        prepared: The run.
        measured: Counts what was cut while the tasks were scored.
    """
    trained = {name: _trained_data(task, measured) for name, task in prepared.tasks.items()}
    untrained = {
        name: _eval_task_data(task, prepared.trained_examples_of(task), measured)
        for name, task in prepared.eval_tasks.items()
    }
    return {**trained, **untrained}


def _trained_data(prepared: PreparedTask, measured: Measurements) -> TaskDataRecord:
    counts = prepared.report
    return TaskDataRecord(
        train_examples=counts.encoded,
        truncated=counts.truncated,
        unsupervised=counts.unsupervised,
        **_scored_data(prepared, prepared.overlap, measured, SPLITS),
    )


def _eval_task_data(
    scored: ScoredTask, overlap: SplitOverlap, measured: Measurements
) -> TaskDataRecord:
    """The same of a task that is scored only: what of it the others train on counts."""
    return TaskDataRecord(train_examples=0, **_scored_data(scored, overlap, measured, EVAL_SPLITS))


def _scored_data(
    scored: ScoredTask, overlap: SplitOverlap, measured: Measurements, splits: Sequence[Split]
) -> dict[str, Any]:
    """What became of a task's rows and test examples."""
    task = scored.task
    reports = (
        {split: task.report(split) for split in splits} if isinstance(task, DatasetTask) else {}
    )
    return {
        "test_examples": len(scored.test),
        "test_prompts_trained": overlap.prompts,
        "test_examples_trained": overlap.answers,
        "prompts_cut": measured.prompts_cut.get(task.name, 0),
        "answers_cut": {
            row: scores[task.name].answers_cut
            for row, scores in measured.rows
            if task.card.scoring == "generate"
        },
        "rows_read": {split: report.rows_read for split, report in reports.items()},
        "skipped_rows": {
            split: dict(report.skipped) for split, report in reports.items() if report.skipped
        },
    }
