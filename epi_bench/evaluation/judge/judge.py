"""Grading all open-ended answers of a scored row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, TypeVar

from epi_bench.errors import UserError, describe_error
from epi_bench.evaluation.judge.endpoint import ChatEndpoint, JudgeUnavailableError
from epi_bench.evaluation.judge.prompts import JudgePrompts, load_prompts
from epi_bench.evaluation.judge.settings import JudgeSettings
from epi_bench.evaluation.judge.verdict_cache import VerdictCache, content_key
from epi_bench.files import cache_folder
from epi_bench.results.metrics.statistics import standard_error
from epi_bench.task.example import Example, Message
from epi_bench.task.task import Task

TEMPERATURE = 0.0
CONCURRENCY = 4
"""Requests under way at a time."""

FAILURES_BEFORE_GIVING_UP = 3
"""Items in a row without an answer after which the rest of a row is not asked for."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class JudgedScores:
    """A judge's grades of one task's answers.

    Attributes:
        items: Grade of each test item, 0..10, in the examples' order; ``None`` where missing.
    """

    items: tuple[float | None, ...]

    @property
    def judged(self) -> list[float]:
        """The grades that were given."""
        return [item for item in self.items if item is not None]

    @property
    def missing(self) -> int:
        """Items without a grade."""
        return len(self.items) - len(self.judged)

    @property
    def mean(self) -> float | None:
        """Mean of the grades that were given (a missing one is not a 0); ``None`` without any."""
        judged = self.judged
        return math.fsum(judged) / len(judged) if judged else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over the judged items; ``None`` for fewer than two."""
        return standard_error(self.judged)


class Judge:
    """Grades a model's answers to the open-ended tasks of a run.

    Args:
        endpoint: Answers requests.
        prompts: What is asked.
        examples: For each judged task its kind of prompt and its test examples.
        cache: Keeps verdicts.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        prompts: JudgePrompts,
        examples: Mapping[str, tuple[str, Sequence[Example]]],
        cache: VerdictCache,
    ) -> None:
        self.endpoint = endpoint
        self.prompts = prompts
        self.examples = examples
        self.cache = cache

    @property
    def model(self) -> str:
        """Name of the judge model."""
        return self.endpoint.settings.model

    def check(self) -> None:
        """Ask for one tiny answer, to find out now whether the judge can be reached.

        Raises:
            UserError: If it cannot.
        """
        ready: list[Message] = [{"role": "user", "content": "Reply with one word: ready"}]
        try:
            self.endpoint.complete(self.body(ready), seed="check", attempts=2)
        except JudgeUnavailableError as error:
            address = self.endpoint.settings.completions_url
            raise UserError(
                f"the judge {self.model!r} at {address} {error}; check judge.url and "
                "judge.model, or leave the judge out",
                setting=("judge.url", "judge.model"),
            ) from error

    def grade(
        self, answers: Mapping[str, Sequence[str]], warn: Callable[[str], None]
    ) -> dict[str, JudgedScores]:
        """The grades of one row, by task. It never raises because of the judge: what cannot be
        had is missing, and said.

        Args:
            answers: For each task the model's answers in the order of the examples; tasks that
                are not judged are left out of the result.
            warn: Receives what the user should know.
        """
        graded = {}
        unavailable: str | None = None
        for name, (kind, examples) in self.examples.items():
            grading = _TaskGrading(self, kind, unavailable)
            graded[name] = grading.grade(name, examples, answers[name], warn)
            unavailable = grading.gave_up
        return graded

    def close(self) -> None:
        """Close the connections."""
        self.endpoint.close()

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The request that asks for the next turn of a conversation."""
        return {
            "model": self.model,
            "messages": list(messages),
            "temperature": TEMPERATURE,
            "max_tokens": self.prompts.answer_tokens,
        }


class _Grade(NamedTuple):
    """A grade, or why there is none; and why it is not kept, if it is not."""

    score: float | None = None
    missing: str | None = None
    not_kept: str | None = None


class _TaskGrading:
    """Grades the answers to one task.

    Attributes:
        gave_up: Why the endpoint is not asked any more; ``None`` while it is.
    """

    def __init__(self, judge: Judge, kind: str, gave_up: str | None) -> None:
        self.judge = judge
        self.kind = kind
        self.gave_up = gave_up
        self._failures_in_a_row = 0
        self._lock = Lock()

    def grade(
        self,
        name: str,
        examples: Sequence[Example],
        answers: Sequence[str],
        warn: Callable[[str], None],
    ) -> JudgedScores:
        pairs = list(zip(examples, answers, strict=True))
        try:
            grades = _map_in_threads(self._grade_item, pairs)
        except BaseException:
            self.gave_up = "was interrupted"  # so that the threads ask no further question
            raise
        reasons = Counter(grade.missing for grade in grades if grade.missing)
        if reasons:
            told = "; ".join(
                f"{count} because {reason}" for reason, count in sorted(reasons.items())
            )
            warn(
                f"{reasons.total()} of {len(grades)} answers of task {name!r} were not judged and "
                f"count as missing: {told}"
            )
        not_kept = next((grade.not_kept for grade in grades if grade.not_kept), None)
        if not_kept:
            warn(f"verdicts are not kept for the next run: {not_kept}")
        return JudgedScores(tuple(grade.score for grade in grades))

    def _grade_item(self, pair: tuple[Example, str]) -> _Grade:
        try:
            return self._grade_or_raise(*pair)
        except JudgeUnavailableError as error:
            with self._lock:
                self._failures_in_a_row += 1
                if error.lasting or self._failures_in_a_row >= FAILURES_BEFORE_GIVING_UP:
                    self.gave_up = self.gave_up or str(error)
            return _Grade(missing=f"the judge {error}")
        except Exception as error:  # noqa: BLE001  (a trained run is worth more than a grade)
            return _Grade(missing=f"grading failed ({describe_error(error)})")

    def _grade_or_raise(self, example: Example, answer: str) -> _Grade:
        body = self.judge.body(self.judge.prompts.messages(self.kind, example, answer))
        key = content_key(body)
        kept = self.judge.cache.get(key)
        score = None if kept is None else self.judge.prompts.score_in(kept)
        if score is not None:
            return _Grade(score)
        if self.gave_up:
            return _Grade(missing=f"the judge {self.gave_up}")
        return self._ask(body, key)

    def _ask(self, body: dict[str, Any], key: str) -> _Grade:
        verdict = self.judge.endpoint.complete(body, seed=key)
        with self._lock:
            self._failures_in_a_row = 0
        score = self.judge.prompts.score_in(verdict)
        if score is None:  # the same question at temperature 0 would get the same answer
            said = {"role": "assistant", "content": verdict}
            reminder = {"role": "user", "content": self.judge.prompts.reminder}
            again = {**body, "messages": [*body["messages"], said, reminder]}
            verdict = self.judge.endpoint.complete(again, seed=f"{key} again")
            score = self.judge.prompts.score_in(verdict)
        if score is None:
            return _Grade(missing="the verdict holds no score from 0 to 10")
        try:
            self.judge.cache.put(key, self.judge.model, verdict)
        except UserError as error:
            return _Grade(score, not_kept=str(error))
        return _Grade(score)


def _map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function of every item, in order, :data:`CONCURRENCY` at a time.

    The threads are daemons, unlike those of an executor: an interrupted run ends at once instead
    of waiting for the answers under way.
    """
    results: dict[int, Result] = {}
    failures: list[BaseException] = []
    positions: SimpleQueue[int] = SimpleQueue()
    for position in range(len(items)):
        positions.put(position)

    def work() -> None:
        while not failures:
            try:
                position = positions.get_nowait()
            except Empty:
                return
            try:
                results[position] = function(items[position])
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                failures.append(error)

    threads = [Thread(target=work, name="judge", daemon=True) for _ in range(CONCURRENCY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[position] for position in range(len(items))]


def open_judge(
    settings: JudgeSettings,
    tasks: Mapping[str, tuple[Task, Sequence[Example]]],
    endpoint: ChatEndpoint | None = None,
) -> Judge:
    """A judge that has answered once.

    Judged are the tasks that generate text and for whose ability there is a prompt. Tasks with an
    exact answer, such as mathematics, have none in the shipped file.

    Args:
        settings: Which judge.
        tasks: The run's tasks with their test examples, by name.
        endpoint: Instead of the one that the settings name.

    Raises:
        UserError: If the prompts are not valid, no task of the run can be judged, or the endpoint
            does not answer.
    """
    prompts = load_prompts(settings.prompts)
    examples = {
        name: (task.card.ability, test)
        for name, (task, test) in tasks.items()
        if task.card.scoring == "generate" and task.card.ability in prompts.prompts
    }
    if not examples:
        raise UserError(
            f"the judge has nothing to do: none of {', '.join(tasks)} generates text and has an "
            f"ability with a judge prompt ({', '.join(sorted(prompts.prompts))}); add one with "
            "judge.prompts, or leave the judge out",
            setting="judge.prompts",
        )
    judge = Judge(
        endpoint or ChatEndpoint(settings),
        prompts,
        examples,
        VerdictCache(cache_folder("judge")),
    )
    try:
        judge.check()
    except UserError:
        judge.close()
        raise
    return judge
