"""From what a run measured to its record."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.results.record.circumstances import (
    Cost,
    ExperienceRecord,
    Fingerprints,
    StrategyRecord,
)
from epi_bench.results.record.derivation import metrics_of
from epi_bench.results.record.environment import current_environment
from epi_bench.results.record.items import pack_items
from epi_bench.results.record.memory import peak_memory_bytes
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import (
    ConflictPoint,
    Diagnostics,
    DivergencePoint,
    DivergenceRecord,
    EvalScoresRecord,
    GradedProtection,
    GradientConflictRecord,
    InterpolationPoint,
    InterpolationRecord,
    JudgedRow,
    JudgedTask,
    JudgeRecord,
    LossPoint,
    ScoreColumn,
    ScoreMatrixRecord,
    TaskColumn,
)
from epi_bench.results.record.track import make_track, track_facts
from epi_bench.runs.task_data import task_data
from epi_bench.strategy.strategy import STRATEGIES

if TYPE_CHECKING:
    from epi_bench.evaluation.scores import TaskScores
    from epi_bench.runs.measurements import Measurements
    from epi_bench.runs.prepared import PreparedRun
    from epi_bench.spec.streams import ExperiencePlan


def build_record(prepared: PreparedRun, measured: Measurements) -> RunRecord:
    """The record of a run that went through.

    Args:
        prepared: The run.
        measured: Everything that came of it.
    """
    matrix, eval_scores = _score_matrix(prepared, measured), _eval_scores(prepared, measured)
    last = measured.rows[-1].scores
    conflict, retention = _conflicts(prepared, measured), measured.retention
    references, divergence = measured.reference_scores, _divergence(prepared, measured)
    return RunRecord(
        status="finished",
        score_matrix=matrix,
        eval_scores=eval_scores,
        kl_to_base=divergence,
        wise_ft=_interpolation(measured),
        metrics=metrics_of(matrix, conflict, retention, references, eval_scores, divergence),
        reference_scores=dict(references) if references else None,
        secondary_scores=_secondary_scores(measured),
        secondary_standard_errors={
            name: dict(scores.metric_errors) for name, scores in last.items()
        },
        secondary_units={
            name: dict(task.task.card.units)
            for name, task in prepared.scored_tasks.items()
            if task.task.card.units
        },
        item_scores=_packed_items(last, prepared.tasks),
        confusion={
            name: scores.confusion for name, scores in last.items() if scores.confusion is not None
        },
        gradient_conflict=conflict,
        mask_statistics=tuple(
            Diagnostics(step=step, values=dict(values)) for step, values in measured.diagnostics
        ),
        graded_protection=tuple(
            GradedProtection(experience=experience, parts=dict(parts))
            for experience, parts in measured.stiffness.items()
        ),
        retention=retention,
        skipped_steps=measured.training.skipped_steps,
        moved_weights=measured.moved_weights,
        judge=_judge_record(measured),
        losses=tuple(LossPoint(step=step, loss=loss) for step, loss in measured.losses),
        cost=_cost(prepared, measured),
        **_known_before_training(prepared, measured),
    )


def build_failed_record(prepared: PreparedRun, measured: Measurements, error: str) -> RunRecord:
    """The record of a run that did not go through.

    Args:
        prepared: The run.
        measured: What was measured until then.
        error: What went wrong, in one line.
    """
    return RunRecord(status="failed", error=error, **_known_before_training(prepared, measured))


def add_references(record: RunRecord, references: Mapping[str, float] | None) -> RunRecord:
    """The record with its metrics derived from the score matrix and these references.

    Args:
        record: A finished run.
        references: Single-task score of each task, or ``None`` where they were not measured.
    """
    matrix = record.score_matrix
    if matrix is None:
        return record
    metrics = metrics_of(
        matrix,
        record.gradient_conflict,
        record.retention,
        references,
        record.eval_scores,
        record.kl_to_base,
    )
    return record.model_copy(
        update={"metrics": metrics, "reference_scores": dict(references) if references else None}
    )


def _known_before_training(prepared: PreparedRun, measured: Measurements) -> dict[str, Any]:
    """What every record says, whatever became of the training."""
    spec = prepared.spec
    fingerprints = Fingerprints(
        model=prepared.fingerprints["model"],
        tasks={name: task.fingerprint for name, task in prepared.scored_tasks.items()},
        chat_template=hashlib.sha256(prepared.encoder.template.encode()).hexdigest(),
        plugins=dict(prepared.plugins),
        texts=dict(prepared.texts),
    )
    protocols = {
        name: (task.task.card.scoring, task.task.card.metric, task.task.card.version)
        for name, task in prepared.scored_tasks.items()
    }
    return {
        "run_id": prepared.run_id,
        "spec": spec,
        "strategy": _strategy_record(prepared),
        "track": make_track(
            track_facts(
                spec,
                fingerprints.model,
                fingerprints.tasks,
                protocols,
                prepared.stream_options,
                measured.processes,
                prepared.texts.get("general_text"),
            )
        ),
        "task_order": tuple(prepared.tasks),
        "experiences": tuple(_experience_records(prepared, measured)),
        "task_data": task_data(prepared, measured),
        "fingerprints": fingerprints,
        "default_chat_template": prepared.encoder.uses_default_template,
        "environment": current_environment(
            measured.device,
            measured.processes,
            prepared.execution.identity(),
            measured.started_at,
            measured.resumed,
        ),
    }


def _strategy_record(prepared: PreparedRun) -> StrategyRecord:
    name = prepared.spec.strategy.name
    return StrategyRecord(
        name=name,
        hyperparameters=dict(prepared.strategy_options),
        source="built-in" if STRATEGIES.is_builtin(name) else "plugin",
        sees_all_tasks="all tasks" in prepared.strategy.needs,
    )


def _experience_records(prepared: PreparedRun, measured: Measurements) -> list[ExperienceRecord]:
    records = []
    made, held_out = measured.training.steps_made, measured.training.held_out
    for experience in prepared.experiences:
        key = str(experience.index)
        reports = [prepared.tasks[name].report for name in experience.tasks]
        records.append(
            ExperienceRecord(
                name=experience.name,
                tasks=experience.tasks,
                steps=experience.steps,
                examples=len(experience.examples),
                truncated=sum(report.truncated for report in reports),
                unsupervised=sum(report.unsupervised for report in reports),
                steps_made=made.get(key),
                held_out=held_out.get(key, 0),
            )
        )
    return records


def _packed_items(scores: Mapping[str, TaskScores], tasks: Iterable[str]) -> dict[str, str]:
    """The item scores of some tasks."""
    return {
        name: pack_items({str(item): score for item, score in enumerate(scores[name].items)})
        for name in tasks
    }


def _eval_scores(prepared: PreparedRun, measured: Measurements) -> EvalScoresRecord | None:
    """Scores of the tasks that were never trained; ``None`` without any."""
    tasks = prepared.eval_tasks
    if not tasks:
        return None
    return EvalScoresRecord(
        columns=tuple(
            TaskColumn(task=name, metric=scored.task.card.metric) for name, scored in tasks.items()
        ),
        item_scores=_packed_items(measured.rows[-1].scores, tasks),
        **_scores_of(tasks, measured),
    )


def _scores_of(tasks: Collection[str], measured: Measurements) -> dict[str, Any]:
    """Every row's scores of some tasks, as a matrix of the record holds them."""
    rows = measured.rows
    return {
        "rows": tuple(name for name, _ in rows),
        "values": tuple(tuple(scores[name].mean for name in tasks) for _, scores in rows),
        "n": tuple(len(rows[0].scores[name].items) for name in tasks),
        "standard_errors": tuple(
            tuple(scores[name].standard_error for name in tasks) for _, scores in rows
        ),
    }


def _score_matrix(prepared: PreparedRun, measured: Measurements) -> ScoreMatrixRecord:
    return ScoreMatrixRecord(
        columns=tuple(
            ScoreColumn(
                task=name, metric=task.task.card.metric, **training_moments(prepared.plans, name)
            )
            for name, task in prepared.tasks.items()
        ),
        **_scores_of(prepared.tasks, measured),
    )


def training_moments(plans: Sequence[ExperiencePlan], task: str) -> dict[str, Any]:
    """When a stream trains a task and how much, as :class:`ScoreColumn` keeps it.

    Where one experience with several tasks is the whole stream, there is no moment at which a task
    has been learned: nothing follows it.
    """
    row, spent = 0, 0.0
    before: int | None = None
    learned: list[int] = []
    for plan in plans:
        if task in plan.tasks:
            before = row if before is None else before
            learned.append(row + plan.evaluations)
            spent += plan.budget / len(plan.tasks)
        row += plan.evaluations
    joint = len(plans) == 1 and len(plans[0].tasks) > 1
    return {
        "learned_at": learned[-1] if learned and not joint else None,
        "first_learned_at": learned[0] if learned and not joint else None,
        "untrained_until": before,
        "budget": spent,
    }


def _conflicts(prepared: PreparedRun, measured: Measurements) -> GradientConflictRecord | None:
    if not measured.conflicts:
        return None
    names = [name for name, _ in measured.rows[1:]]
    return GradientConflictRecord(
        tasks=tuple(prepared.tasks),
        examples=prepared.spec.evaluation.probe_examples,
        coordinates=measured.conflicts[0].coordinates,
        points=tuple(
            ConflictPoint(row=name, cosines=tuple(map(tuple, point.cosines)))
            for name, point in zip(names, measured.conflicts, strict=True)
        ),
    )


def _divergence(prepared: PreparedRun, measured: Measurements) -> DivergenceRecord | None:
    if not measured.divergences:
        return None
    return DivergenceRecord(
        examples=prepared.spec.evaluation.kl_examples,
        top=measured.divergences[0].top,
        points=tuple(
            DivergencePoint(row=row, tasks=tasks, nats=nats, tokens=tokens)
            for row, tasks, nats, tokens, _ in measured.divergences
        ),
    )


def _interpolation(measured: Measurements) -> InterpolationRecord | None:
    if not measured.curve:
        return None
    tasks = tuple(measured.curve[0].means)
    return InterpolationRecord(
        tasks=tasks,
        points=tuple(
            InterpolationPoint(
                alpha=point.alpha,
                values=tuple(point.means[task] for task in tasks),
                standard_errors=tuple(point.errors[task] for task in tasks),
                nll=point.loss,
            )
            for point in measured.curve
        ),
    )


def _secondary_scores(measured: Measurements) -> dict[str, dict[str, float | None]]:
    """The last row's metrics, with the judge's mean grade as ``judge`` where there is one."""
    graded = measured.judged[-1].grades if measured.judged else {}
    return {
        name: {**scores.metrics, **({"judge": graded[name].mean} if name in graded else {})}
        for name, scores in measured.rows[-1].scores.items()
    }


def _judge_record(measured: Measurements) -> JudgeRecord | None:
    judge = measured.judge
    if judge is None:
        return None
    return JudgeRecord(
        model=judge.model,
        prompt_fingerprint=judge.prompt_fingerprint,
        rows=tuple(
            JudgedRow(
                row=row,
                tasks={
                    name: JudgedTask(
                        mean=graded.mean,
                        n=len(graded.judged),
                        missing=graded.missing,
                        standard_error=graded.standard_error,
                    )
                    for name, graded in tasks.items()
                },
            )
            for row, tasks in measured.judged
        ),
    )


def _cost(prepared: PreparedRun, measured: Measurements) -> Cost:
    training = measured.training
    return Cost(
        training_seconds=training.seconds,
        evaluation_seconds=measured.evaluation_seconds,
        total_seconds=perf_counter() - measured.started,
        tokens_trained=training.tokens,
        extra_tokens=training.extra_tokens,
        tokens_per_second=training.tokens / training.seconds if training.seconds else None,
        peak_memory_bytes=max(peak_memory_bytes(measured.device) or 0, measured.peak_memory_before)
        or None,
        extra_state_bytes=prepared.strategy.state_bytes(),
        trainable_parameters=training.trained_parameters,
        total_parameters=measured.total_parameters,
    )
