"""Printing a run's results."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from epi_bench.cli.interpolation_table import interpolation_table
from epi_bench.results.leaderboard import MEASURES, OWN_BOARD
from epi_bench.results.record.circumstances import Cost
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import (
    Confusion,
    EvalScoresRecord,
    JudgeRecord,
    ScoreMatrixRecord,
)
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.request import RunOutcome
from epi_bench.tables import Column, FittedTable

UNDEFINED = "–"

MOST_LABELS_SHOWN = 8
"""With more labels the confusion matrix is wider than most terminals; it is in the record."""

_SCALE = "0 to 100"
_UNITS = {"reference_negative_log_likelihood": "nats a token", "judge": "0 to 10"}
"""Units of the metrics that do not belong to one task."""


def print_record(outcome: RunOutcome, console: Console) -> None:
    """The score matrix, the metrics, the cost and the record's path."""
    record = outcome.record
    if record is None or record.score_matrix is None:
        return
    tables = [_matrix_table(record.score_matrix, record.eval_scores), _metrics_table(record)]
    if (curve := interpolation_table(record)) is not None:
        tables.append(curve)
    if record.judge:
        tables.append(_judge_table(record.judge))
    if record.secondary_scores:
        tables.append(_secondary_table(record))
    tables += [
        _confusion_table(task, confusion)
        for task, confusion in record.confusion.items()
        if len(confusion.labels) <= MOST_LABELS_SHOWN
    ]
    for table in tables:
        console.print(table)
        console.print()
    for line in (*_early_lines(record), *_cut_lines(record)):
        console.print(line, highlight=False, markup=False)
    if record.cost:
        console.print(_cost_line(record.cost), highlight=False, markup=False)
    console.print(f"Record: {outcome.path}", highlight=False, markup=False, soft_wrap=True)
    if record.reference_scores is None:
        console.print(
            "With --references: intransigence, interference and the normalised score.",
            style="dim",
        )


def print_outcomes(outcomes: Sequence[RunOutcome], workspace: Workspace, console: Console) -> None:
    """One line a run, and where to look next."""
    has_eval_tasks = any(outcome.spec.data.eval_tasks for outcome in outcomes)
    columns = [
        Column("strategy"),
        Column("seed", numeric=True),
        Column("average accuracy", numeric=True),
        Column("backward transfer", numeric=True),
        *([Column("task retention", numeric=True)] if has_eval_tasks else []),
        Column("outcome"),
    ]
    rows = []
    for outcome in outcomes:
        metrics = outcome.record.metrics if outcome.record else {}
        rows.append(
            (
                outcome.spec.label,
                str(outcome.spec.seed),
                _number(metrics.get("average_accuracy")),
                _number(metrics.get("backward_transfer")),
                *([_number(metrics.get("task_retention"))] if has_eval_tasks else []),
                _outcome_word(outcome),
            )
        )
    console.print(FittedTable(columns, rows, "Runs", keys=2))
    if workspace.board.is_dir():  # else nothing was published
        folder = "" if workspace.board == OWN_BOARD else f" {workspace.board}"
        console.print(
            f"Ranking: epi-bench leaderboard{folder}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _outcome_word(outcome: RunOutcome) -> str:
    if outcome.error or outcome.record is None:
        return "not started"
    if outcome.skipped:
        return "finished before"
    return outcome.record.status


def _matrix_table(matrix: ScoreMatrixRecord, untrained: EvalScoresRecord | None) -> FittedTable:
    """Scores after each experience; bold where a task was just learned.

    The columns of tasks that were never trained come last, and are marked.
    """
    columns = [Column("after"), *(Column(column.task, numeric=True) for column in matrix.columns)]
    title = f"Score matrix ({_SCALE}): each task's score after each row"
    if untrained is not None:
        columns += [Column(f"{c.task} (eval)", numeric=True) for c in untrained.columns]
        title += "; (eval): scored, never trained"
    rows: list[tuple[str | Text, ...]] = []
    for index, (name, row) in enumerate(zip(matrix.rows, matrix.values, strict=True)):
        cells = [
            Text(_number(value), style="bold" if column.learned_at == index else "")
            for column, value in zip(matrix.columns, row, strict=True)
        ]
        kept = untrained.values[index] if untrained is not None else ()
        rows.append((name, *cells, *map(_number, kept)))
    return FittedTable(columns, rows, title)


def _cut_lines(record: RunRecord) -> list[str]:
    """What was scored although it was not whole, a line for each task with any."""
    lines = []
    for name, data in record.task_data.items():
        parts = [f"{data.prompts_cut} prompts"] if data.prompts_cut else []
        rows = list(data.answers_cut.items())
        if rows and (rows[0][1] or rows[-1][1]):
            parts.append(f"{rows[-1][1]} answers at the end ({rows[0][1]} of the base model)")
        if parts:
            lines.append(f"Cut, of {data.test_examples} in {name}: {', '.join(parts)}")
    return lines


def _early_lines(record: RunRecord) -> list[str]:
    """Which experiences the strategy ended before their last step."""
    return [
        f"Ended early: {experience.name} after {experience.steps_made} of {experience.steps} steps"
        for experience in record.experiences
        if experience.steps_made is not None
    ]


def _cost_line(cost: Cost) -> str:
    extra = f" and {cost.extra_tokens:,} more for the strategy" if cost.extra_tokens else ""
    memory = f"{(cost.peak_memory_bytes or 0) / 2**30:.2f} GB peak memory"
    return (
        f"Cost: {cost.training_seconds:.1f} s training, {cost.evaluation_seconds:.1f} s "
        f"scoring, {cost.tokens_trained:,} tokens{extra}, {memory}, "
        f"{cost.extra_state_bytes / 2**20:.1f} MB of strategy state, "
        f"{cost.trainable_parameters:,} of {cost.total_parameters:,} parameters trained"
    )


def _metrics_table(record: RunRecord) -> FittedTable:
    rows = []
    for measure in MEASURES.values():
        value = measure.of(record)
        if value is not None and not measure.cost and not measure.name.endswith("_left_out"):
            number = _number(value / measure.divisor, measure.decimals)
            rows.append((measure.title, number, Text(measure.formula, style="dim")))
    columns = [Column(""), Column("", numeric=True), Column("", text=True)]
    return FittedTable(columns, rows, "Metrics")


def _judge_table(judge: JudgeRecord) -> FittedTable:
    """Mean grade, plus or minus its standard error, and how many answers got none."""
    names = list(judge.rows[0].tasks) if judge.rows else []
    rows = []
    for row in judge.rows:
        cells = []
        for name in names:
            task = row.tasks[name]
            missing = f", {task.missing} missing" if task.missing else ""
            error = _number(task.standard_error, 2)
            cells.append(f"{_number(task.mean, 2)} ± {error} (n = {task.n}{missing})")
        rows.append((row.row, *cells))
    columns = [Column("after"), *(Column(name, numeric=True) for name in names)]
    return FittedTable(columns, rows, f"Judge {judge.model} (0 to 10)")


def _secondary_table(record: RunRecord) -> FittedTable:
    """Every metric of every task after the last experience, with its standard error.

    Shares are shown on the scale of the score matrix, everything else with its unit.
    """
    rows = []
    for task in record.scored_tasks:
        errors = record.secondary_standard_errors.get(task, {})
        units = {**_UNITS, **record.secondary_units.get(task, {})}
        primary = _primary_score(record, task)
        for metric, value in record.secondary_scores.get(task, {}).items():
            if metric in primary:
                numbers, scale = primary[metric], _SCALE
            elif metric in units:
                numbers, scale = (value, errors.get(metric)), units[metric]
            else:
                numbers, scale = (_hundredfold(value), _hundredfold(errors.get(metric))), _SCALE
            cells = (_number(number, 1 if scale == _SCALE else 3) for number in numbers)
            rows.append((task, metric, *cells, scale))
        if confusion := record.confusion.get(task):
            mean = _number(confusion.balanced_accuracy)
            rows.append((task, "balanced_acc", mean, UNDEFINED, _SCALE))
    columns = [
        Column("task"),
        Column("metric"),
        Column("mean", numeric=True),
        Column("standard error", numeric=True),
        Column("scale"),
    ]
    return FittedTable(columns, rows, "All metrics of the tasks, at the end", keys=2)


def _confusion_table(task: str, confusion: Confusion) -> FittedTable:
    """Right labels down, chosen ones across; the right choices are bold."""
    columns = [Column("right label"), *(Column(label, numeric=True) for label in confusion.labels)]
    rows: list[Sequence[str | Text]] = []
    for right, counts in zip(confusion.labels, confusion.counts, strict=True):
        cells = [
            Text(str(count), style="bold" if right == chosen else "")
            for chosen, count in zip(confusion.labels, counts, strict=True)
        ]
        rows.append((right, *cells))
    return FittedTable(columns, rows, f"{task}: right label, and which was chosen")


def _primary_score(record: RunRecord, task: str) -> dict[str, tuple[float | None, float | None]]:
    """A task's last score and its standard error, under the name of its primary metric."""
    for matrix in (record.score_matrix, record.eval_scores):
        for position, column in enumerate(matrix.columns if matrix else ()):
            if matrix and column.task == task:
                score, error = matrix.values[-1][position], matrix.standard_errors[-1][position]
                return {column.metric: (score, error)}
    return {}


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: float | None, digits: int = 1) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"
