"""Measurements as JSON values, for checkpoints: what was measured is not measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.evaluation.gradient_conflict import ConflictMeasurement
from epi_bench.evaluation.judge.judge import JudgedScores
from epi_bench.evaluation.scores import TaskScores
from epi_bench.results.record.scores import Confusion, StiffnessShare
from epi_bench.runs.measurements import CurvePoint, GradedRow, MeasuredDivergence, ScoredRow
from epi_bench.task.example import Prediction

if TYPE_CHECKING:
    from epi_bench.runs.measurements import Measurements


def measurements_to_json(measured: Measurements) -> dict[str, Any]:
    """What has been measured so far; what a process can tell by itself is left out."""
    return {
        "started_at": measured.started_at.isoformat(),
        "seconds": perf_counter() - measured.started,
        "evaluation_seconds": measured.evaluation_seconds,
        "peak_memory": measured.peak_memory_before,
        "rows": [[name, _scores_to_json(scores)] for name, scores in measured.rows],
        "answers": _scores_to_json(measured.answers),
        "scored": _scores_to_json(measured.scored),
        "conflicts": [asdict(point) for point in measured.conflicts],
        "divergences": [found._asdict() for found in measured.divergences],
        "curve": [point._asdict() for point in measured.curve],
        "losses": [list(point) for point in measured.losses],
        "losses_since": list(measured._losses_since),
        "diagnostics": [[step, _plain(values)] for step, values in measured.diagnostics],
        "stiffness": [
            [experience, {part: share.model_dump() for part, share in parts.items()}]
            for experience, parts in measured.stiffness.items()
        ],
        "text_before": measured.text_before and list(measured.text_before),
        "judged": [
            [name, {task: list(found.items) for task, found in grades.items()}]
            for name, grades in measured.judged
        ],
    }


def take_up_measurements(measured: Measurements, content: Mapping[str, Any]) -> None:
    """Let measurements go on from those that :func:`measurements_to_json` wrote.

    Args:
        measured: Of a run that has measured nothing yet.
        content: JSON values.
    """
    measured.started_at = datetime.fromisoformat(content["started_at"])
    measured.started -= content["seconds"]
    measured.evaluation_seconds = content["evaluation_seconds"]
    measured.peak_memory_before = content["peak_memory"]
    measured.rows[:] = [
        ScoredRow(name, _scores_from_json(scores)) for name, scores in content["rows"]
    ]
    measured.answers = _scores_from_json(content["answers"])
    measured.scored = _scores_from_json(content["scored"])
    measured.conflicts[:] = [ConflictMeasurement(**point) for point in content["conflicts"]]
    measured.divergences[:] = [
        MeasuredDivergence(**{**found, "tasks": tuple(found["tasks"])})
        for found in content["divergences"]
    ]
    measured.curve[:] = [CurvePoint(**point) for point in content["curve"]]
    measured.losses[:] = [(step, loss) for step, loss in content["losses"]]
    measured._losses_since[:] = content["losses_since"]
    measured.diagnostics[:] = [(step, values) for step, values in content["diagnostics"]]
    measured.stiffness = {
        experience: {part: StiffnessShare(**share) for part, share in parts.items()}
        for experience, parts in content.get("stiffness", ())  # older checkpoints have none
    }
    before = content["text_before"]
    measured.text_before = (before[0], before[1]) if before else None
    measured.judged[:] = [
        GradedRow(name, {task: JudgedScores(tuple(items)) for task, items in grades.items()})
        for name, grades in content["judged"]
    ]


def _scores_to_json(scores: Mapping[str, TaskScores]) -> dict[str, Any]:
    return {
        task: {
            "items": [_number(item) for item in found.items],
            "metrics": _plain(found.metrics),
            "metric_errors": _plain(found.metric_errors),
            "predictions": [asdict(prediction) for prediction in found.predictions],
            "results": [_plain(result) for result in found.results],
            "answers_cut": found.answers_cut,
            "confusion": found.confusion and found.confusion.model_dump(mode="json"),
        }
        for task, found in scores.items()
    }


def _scores_from_json(content: Mapping[str, Any]) -> dict[str, TaskScores]:
    return {
        task: TaskScores(
            items=tuple(found["items"]),
            metrics=found["metrics"],
            metric_errors=found["metric_errors"],
            predictions=tuple(_prediction(given) for given in found["predictions"]),
            results=tuple(found["results"]),
            answers_cut=found["answers_cut"],
            confusion=found["confusion"] and Confusion.model_validate(found["confusion"]),
        )
        for task, found in content.items()
    }


def _prediction(content: Mapping[str, Any]) -> Prediction:
    lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    return Prediction(**{**content, **lists})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    """A number of numpy's or torch's as one of Python's; others stay what they are."""
    return value.item() if hasattr(value, "item") else value
