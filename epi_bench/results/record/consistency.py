"""Whether a record says the same in every place: nothing derived is believed because it is there.

A record holds raw scores and what was derived from them. Whoever reads one (a leaderboard, a
report, a run that looks for its references) gets numbers that follow from the raw ones, because
every derived number is computed again and compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from epi_bench.errors import UserError
from epi_bench.results.record.derivation import metrics_of
from epi_bench.results.record.items import unpack_items
from epi_bench.results.record.run_identity import identity_hash
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import EvalScoresRecord, ScoreMatrixRecord

TOLERANCE = 1e-6
"""Relative difference up to which two numbers are one: below what any table shows."""

LIBRARIES = {"spec.data.eval_tasks": ("lm_eval",), "spec.strategy.name": ("avalanche",)}
"""Where names of another library's may stand, with its prefix: ``lm_eval:hellaswag``."""


@dataclass(frozen=True)
class Disagreement:
    """A place in a record that does not follow from the others.

    Attributes:
        field: Where, such as ``metrics.average_accuracy``.
        written: What the record says there.
        recomputed: What follows from the rest of it, or the range that it lies outside of.
    """

    field: str
    written: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.field} is {self.written}, but the record itself gives {self.recomputed}"


class DamagedRecordError(UserError):
    """A file that is there but is no record, or one that contradicts itself.

    An absent or unreadable file and a record of a newer version are plain ``UserError``: they are
    not damaged, and nothing may take their place.

    Args:
        problem: What is wrong, in one line.
        disagreements: Every place that is wrong; none where the file is no record at all.
        path: The file, once it is known.
        setting: Names of the settings that the problem is about.

    Attributes:
        problem: As given, without the file.
        disagreements: As given.
        path: As given.
    """

    def __init__(
        self,
        problem: str,
        disagreements: Sequence[Disagreement] = (),
        *,
        path: Path | None = None,
        setting: str | Sequence[str] = (),
    ) -> None:
        super().__init__(problem if path is None else f"{path}: {problem}", setting=setting)
        self.problem = problem
        self.disagreements = tuple(disagreements)
        self.path = path


def disagreements(record: RunRecord) -> list[Disagreement]:
    """Every place of a record that its other parts contradict.

    Args:
        record: Of a finished or failed run.
    """
    found = [*_names(record), *_identity(record), *_track(record), *_counts(record)]
    if record.score_matrix is not None:
        matrix = record.score_matrix
        found += [*_shape(record, matrix), *_ranges(record, matrix)]
        found += [*_eval_shape(record, matrix), *_divergence(record, matrix)]
        found += [*_interpolation(record, matrix)]
        if not found:  # metrics of a matrix without rows, say, cannot be computed
            found += [*_metrics(record, matrix), *_items("", matrix, record.item_scores)]
            if record.eval_scores is not None:
                scores = record.eval_scores
                found += [*_items("eval_scores.", scores, scores.item_scores)]
    return found


def check_record(record: RunRecord) -> None:
    """Refuse a record that contradicts itself.

    Raises:
        DamagedRecordError: With the first contradiction in its message, and all of them.
    """
    try:
        found = disagreements(record)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise DamagedRecordError(f"the record's metrics cannot be computed: {error}") from error
    except UserError as error:
        raise DamagedRecordError(str(error)) from error
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DamagedRecordError(f"the record contradicts itself: {found[0]}{more}", found)


def expected_run_id(record: RunRecord) -> str:
    """The run id that follows from a record's specification, fingerprints and process.

    It is what :func:`epi_bench.runs.identity.run_id` gave when the run was made, computed without
    the strategy, which may be a plugin that is not installed here.
    """
    facts, prints = record.track.facts, record.fingerprints
    return identity_hash(
        record.spec,
        record.strategy.hyperparameters,
        facts.stream_options,
        {name: task.options for name, task in sorted(facts.scored_tasks.items()) if task.options},
        {
            "model": prints.model,
            **{f"task:{name}": value for name, value in prints.tasks.items()},
            **{k: value for k, value in prints.plugins.items() if not k.startswith("task:")},
            **{f"text:{name}": value for name, value in prints.texts.items()},
        },
        record.environment.execution,
        schema=facts.schema_version,
        protocol=facts.training_protocol,
    )


def _names(record: RunRecord) -> Iterator[Disagreement]:
    """Strategies, streams and tasks have names that a registry takes."""
    spec = record.spec
    names = {"spec.strategy.name": [spec.strategy.name], "spec.stream.kind": [spec.stream.kind]}
    tasks = {
        "spec.data.tasks": list(spec.data.tasks),
        "spec.data.eval_tasks": list(spec.data.eval_tasks),
    }
    for field, given in {**names, **tasks}.items():
        for name in given:
            library, _, member = name.rpartition(":")
            is_usable = library in LIBRARIES.get(field, ()) if library else name.isidentifier()
            if not is_usable or not member:
                yield Disagreement(field, repr(name), "a name of letters, digits and underscores")


def _identity(record: RunRecord) -> Iterator[Disagreement]:
    expected = expected_run_id(record)
    if record.run_id != expected:
        yield Disagreement("run_id", record.run_id, expected)


def _track(record: RunRecord) -> Iterator[Disagreement]:
    spec, facts = record.spec, record.track.facts
    pairs: dict[str, tuple[object, object]] = {
        "strategy.name": (record.strategy.name, spec.strategy.name),
        "track.facts.tasks": (sorted(facts.tasks), sorted(spec.data.tasks)),
        "track.facts.eval_tasks": (sorted(facts.eval_tasks), sorted(spec.data.eval_tasks)),
        "task_order": (sorted(record.task_order), sorted(spec.data.tasks)),
        "track.facts.model_fingerprint": (facts.model_fingerprint, record.fingerprints.model),
        "track.facts.stream": (facts.stream, spec.stream.kind),
        "track.facts.general_text": (
            facts.general_text,
            record.fingerprints.texts.get("general_text"),
        ),
        "fingerprints.texts.general_text": (
            "general_text" in record.fingerprints.texts,
            spec.data.general_text is not None,
        ),
        "track.facts.train_examples": (facts.train_examples, spec.data.train_examples),
        "track.facts.test_examples": (facts.test_examples, spec.data.test_examples),
        "track.facts.max_length": (facts.max_length, spec.data.max_length),
        "track.facts.mask_history": (facts.mask_history, spec.data.mask_history),
        "track.facts.max_new_tokens": (facts.max_new_tokens, spec.evaluation.max_new_tokens),
        "track.facts.steps": (facts.steps, spec.training.steps),
        "track.facts.epochs": (facts.epochs, spec.training.epochs),
        "track.facts.examples_per_step": (
            facts.examples_per_step,
            spec.training.examples_a_step(record.environment.processes),
        ),
        "fingerprints.tasks": (
            dict(record.fingerprints.tasks),
            {name: task.fingerprint for name, task in facts.scored_tasks.items()},
        ),
    }
    for field, (written, expected) in pairs.items():
        if written != expected:
            yield Disagreement(field, short(written), short(expected))


def _shape(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    if len(matrix.rows) < 2:
        yield Disagreement("score_matrix.rows", str(len(matrix.rows)), "at least 2")
    elif matrix.rows[0] != "base":
        yield Disagreement("score_matrix.rows.0", repr(matrix.rows[0]), "'base'")
    columns = [column.task for column in matrix.columns]
    if columns != list(record.task_order):
        yield Disagreement("score_matrix.columns", short(columns), short(list(record.task_order)))
    for column in matrix.columns:
        facts = record.track.facts.tasks.get(column.task)
        if facts is not None and facts.metric != column.metric:
            yield Disagreement(
                f"score_matrix.columns.{column.task}.metric", column.metric, facts.metric
            )


def _eval_shape(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    """The scores of tasks that were never trained: same rows, the tasks asked for, in range."""
    scores = record.eval_scores
    asked = list(record.spec.data.eval_tasks)
    if scores is None:
        if asked:
            yield Disagreement("eval_scores", "missing", short(asked))
        return
    if scores.rows != matrix.rows:
        yield Disagreement("eval_scores.rows", short(scores.rows), short(matrix.rows))
    tasks = [column.task for column in scores.columns]
    if tasks != asked or not asked:
        yield Disagreement("eval_scores.columns", short(tasks), short(asked))
    for column in scores.columns:
        facts = record.track.facts.eval_tasks.get(column.task)
        if facts is not None and facts.metric != column.metric:
            yield Disagreement(
                f"eval_scores.columns.{column.task}.metric", column.metric, facts.metric
            )
    for row, values, errors in zip(scores.rows, scores.values, scores.standard_errors, strict=True):
        yield from _outside(f"eval_scores.values.{row}", values, 100)
        yield from _outside(f"eval_scores.standard_errors.{row}", errors, 100)
    yield from _outside("eval_scores.n", scores.n, math.inf)


def _divergence(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    """The divergence from the base model: one number for each row that follows the base."""
    measured = record.kl_to_base
    if measured is None:
        return
    rows = tuple(point.row for point in measured.points)
    if rows != matrix.rows[1:]:
        yield Disagreement("kl_to_base.points", short(rows), short(matrix.rows[1:]))
    for point in measured.points:
        unknown = sorted(set(point.tasks) - set(record.task_order))
        if unknown:
            yield Disagreement(f"kl_to_base.{point.row}.tasks", short(unknown), "trained tasks")
        yield from _outside(f"kl_to_base.{point.row}", [point.nats, point.tokens], math.inf)
    if measured.examples != record.spec.evaluation.kl_examples:
        asked = record.spec.evaluation.kl_examples
        yield Disagreement("kl_to_base.examples", str(measured.examples), str(asked))


def _interpolation(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    """What lies between the base model and the finished one: the ends are the matrix's rows."""
    curve = record.wise_ft
    if curve is None:
        return
    if not record.spec.evaluation.wise_ft_curve:
        yield Disagreement("wise_ft", "there", "not asked for")
    if curve.tasks != record.scored_tasks:
        yield Disagreement("wise_ft.tasks", short(curve.tasks), short(record.scored_tasks))
        return
    alphas = [point.alpha for point in curve.points]
    if alphas != sorted(set(alphas)) or alphas[:1] != [0] or alphas[-1:] != [1]:
        yield Disagreement("wise_ft.points", short(alphas), "alphas that rise from 0 to 1")
        return
    untrained = record.eval_scores.values if record.eval_scores else ()
    for point, row in ((curve.points[0], 0), (curve.points[-1], -1)):
        expected = (*matrix.values[row], *(untrained[row] if untrained else ()))
        if point.values != expected:
            where = f"wise_ft.points.{point.alpha:g}"
            yield Disagreement(where, short(point.values), short(expected))
    for point in curve.points:
        where = f"wise_ft.points.{point.alpha:g}"
        yield from _outside(where, (*point.values, *point.standard_errors), 100)
        yield from _outside(where, [point.nll], math.inf)


def _ranges(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    for row, values in zip(matrix.rows, matrix.values, strict=True):
        yield from _outside(f"score_matrix.values.{row}", values, 100)
    for row, errors in zip(matrix.rows, matrix.standard_errors, strict=True):
        yield from _outside(f"score_matrix.standard_errors.{row}", errors, 100)
    yield from _outside("score_matrix.n", matrix.n, math.inf)
    references = record.reference_scores or {}
    yield from _outside("reference_scores", references.values(), 100)
    unknown = set(references) - set(record.task_order)
    if unknown or (references and len(references) != len(record.task_order)):
        yield Disagreement(
            "reference_scores", short(sorted(references)), short(sorted(record.task_order))
        )
    cost = record.cost.model_dump() if record.cost else {}
    for name, value in cost.items():
        yield from _outside(f"cost.{name}", [value], math.inf)


def _counts(record: RunRecord) -> Iterator[Disagreement]:
    """Numbers beside the score matrix that have a range."""
    yield from _outside("skipped_steps", [record.skipped_steps], math.inf)
    for experience in record.experiences:
        counted = _numbers_in(experience.model_dump())
        yield from _outside(f"experiences.{experience.name}", counted, math.inf)
    for name, data in record.task_data.items():
        yield from _outside(f"task_data.{name}", _numbers_in(data.model_dump()), math.inf)
    for name, confusion in record.confusion.items():
        yield from _outside(f"confusion.{name}", _numbers_in(confusion.counts), math.inf)
    graded = [point.experience for point in record.graded_protection]
    yield from _outside("graded_protection.experience", graded, len(record.experiences) - 1)
    for point in record.gradient_conflict.points if record.gradient_conflict else ():
        # sums in float32, as older versions made them, are off by some ten-thousandths
        cosines = [c for c in _numbers_in(point.cosines) if abs(c) > 1.01]
        yield from _outside(f"gradient_conflict.{point.row}", cosines, 1, least=-1)
    for row in record.judge.rows if record.judge else ():
        for name, task in row.tasks.items():
            yield from _outside(f"judge.{row.row}.{name}.mean", [task.mean], 10)
            yield from _outside(f"judge.{row.row}.{name}", [task.n, task.missing], math.inf)


def _numbers_in(value: Any) -> Iterator[float]:
    """Every number in nested mappings and sequences."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict):
        yield from _numbers_in(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _numbers_in(below)


def _outside(
    field: str, values: Iterable[float | None], most: float, least: float = 0
) -> Iterator[Disagreement]:
    rounding = 1e-6
    for value in values:
        if value is not None and not least - rounding * abs(least) <= value <= most + rounding:
            limit = (
                "a number that is not negative" if math.isinf(most) else f"{least:g} to {most:g}"
            )
            yield Disagreement(field, _number(value), limit)


def _metrics(record: RunRecord, matrix: ScoreMatrixRecord) -> Iterator[Disagreement]:
    derived = metrics_of(
        matrix,
        record.gradient_conflict,
        record.retention,
        record.reference_scores,
        record.eval_scores,
        record.kl_to_base,
    )
    for name, value in record.metrics.items():
        if name not in derived:
            yield Disagreement(f"metrics.{name}", _number(value), "no such metric")
    for name, value in derived.items():
        # a metric that a later version added is not in older records
        if name in record.metrics and not _equal(record.metrics[name], value):
            yield Disagreement(f"metrics.{name}", _number(record.metrics[name]), _number(value))


def _items(
    part: str, matrix: ScoreMatrixRecord | EvalScoresRecord, packed_items: Mapping[str, str]
) -> Iterator[Disagreement]:
    """The last row is the mean of its items.

    Args:
        part: What fields are named after, with a dot; empty for those of the record itself.
        matrix: Of the scores.
        packed_items: The item scores by task.
    """
    values = f"{part}values" if part else "score_matrix.values"
    last = dict(zip([c.task for c in matrix.columns], matrix.values[-1], strict=True))
    counts = dict(zip([c.task for c in matrix.columns], matrix.n, strict=True))
    for name, packed in packed_items.items():
        if name not in last:
            yield Disagreement(f"{part}item_scores.{name}", "there", "no such task")
            continue
        items = [score for score in unpack_items(packed).values() if score is not None]
        if len(items) != counts[name]:
            yield Disagreement(
                f"{part}item_scores.{name}", f"{len(items)} items", f"{counts[name]}"
            )
        yield from _outside(f"{part}item_scores.{name}", items, 100)
        if items and not _equal(last[name], fmean(items)):
            yield Disagreement(
                f"{values}.{matrix.rows[-1]}.{name}",
                _number(last[name]),
                _number(fmean(items)),
            )


def _equal(written: float | None, computed: float | None) -> bool:
    if written is None or computed is None:
        return written is computed
    return math.isclose(written, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"


def short(value: object) -> str:
    """A value of a record as a message shows it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
