"""Scoring a model on every task: text generation, choice between options, teacher forcing.

Examples are encoded once; each evaluation sorts them by length, so batches hold little padding.
Scores do not depend on the batch size (up to the rounding of matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.evaluation.answers import AnswerReader, ending_texts, ending_tokens
from epi_bench.evaluation.confusion import confusion_of
from epi_bench.evaluation.generation import generate_greedily
from epi_bench.evaluation.harness_evaluator import HarnessEvaluator
from epi_bench.evaluation.options import option_log_likelihoods
from epi_bench.evaluation.references import TokenScores, reference_token_scores
from epi_bench.evaluation.scores import TaskScores
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.results.metrics.statistics import standard_error
from epi_bench.task.example import Example, Prediction
from epi_bench.task.harness_task import HarnessTask
from epi_bench.task.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel


LONGEST_ANSWER = 16_384
"""Tokens of a reference answer or an option."""


class TaskEvaluator:
    """Scores models on one task's test examples.

    Scoring has two halves that can be used by themselves: :meth:`predict` asks the model,
    :meth:`score_predictions` needs the predictions only.

    .. code-block:: python

        evaluator = TaskEvaluator(task, task.examples("test"), encoder, batch_size=32)
        scores = evaluator.score(model)
        scores.mean, scores.standard_error  # 0..100

    Args:
        task: Gives scoring mode and scorer.
        examples: What to score on; not empty.
        encoder: Encodes conversations; its tokenizer decodes answers.
        batch_size: Examples (or options) scored at once.
        reference_loss: Whether the log-likelihood of the reference is measured where text is
            generated; it costs a forward pass over prompt and reference.
        max_new_tokens: Longest answer if that is less than the task's own limit.

    Attributes:
        prompts_cut: How many of the examples lose the beginning of their prompt, because it is
            longer than ``max_length``.
        max_length: Longest prompt in tokens.
    """

    def __init__(
        self,
        task: Task,
        examples: Sequence[Example],
        encoder: ChatEncoder,
        batch_size: int,
        *,
        reference_loss: bool = True,
        max_new_tokens: int | None = None,
    ) -> None:
        self.task = task
        self.examples = examples
        self.batch_size = batch_size
        self.reference_loss = reference_loss
        limit = task.card.max_new_tokens
        self.max_new_tokens = min(limit, max_new_tokens or limit)
        self.max_length = encoder.max_length
        self._encoder = encoder
        self._pad = int(encoder.tokenizer.pad_token_id)
        asked: Sequence[EncodedExample]
        if task.card.scoring == "choice":
            self._options = [encoder.options(e.prompt, e.options) for e in examples]
            asked = [options[0] for options in self._options]
        else:
            asked = self._references = [encoder.scoring(e.messages) for e in examples]
        if task.card.scoring == "generate":
            asked = self._prompts = [
                # An answer is generated from the whole prompt, however long its reference is.
                encoder.prompt(example.messages) if reference.cut else _prompt_of(reference)
                for example, reference in zip(examples, self._references, strict=True)
            ]
        _check_lengths(task, self.encoded)
        self.prompts_cut = sum(encoded.cut > 0 for encoded in asked)

    @property
    def longest_prompt(self) -> str:
        """How long a prompt may be, and how to allow longer ones, as a message says it."""
        return f"{self.max_length} tokens: raise data.max_length"

    @property
    def encoded(self) -> Iterator[EncodedExample]:
        """Every text that the model reads, as tokens."""
        if self.task.card.scoring == "choice":
            return (option for options in self._options for option in options)
        return iter(self._references)

    @property
    def longest_with_answer(self) -> int:
        """Tokens of the longest prompt and all that may be generated; 0 if nothing is."""
        if self.task.card.scoring != "generate":
            return 0
        return max(len(prompt) for prompt in self._prompts) + self.max_new_tokens

    def score(self, model: PreTrainedModel) -> TaskScores:
        """The model's scores, in evaluation mode; its training mode is restored afterwards."""
        return self.score_predictions(self.predict(model))

    @torch.no_grad()
    def predict(self, model: PreTrainedModel) -> list[Prediction]:
        """What the model says to each example, in their order, in the task's scoring mode."""
        was_training = model.training
        model.eval()
        try:
            if self.task.card.scoring == "choice":
                return self._choose(model)
            if self.task.card.scoring == "teacher_forced":
                return self._teacher_force(model)
            losses: list[float | None] = [None] * len(self.examples)
            if self.reference_loss:
                forced = self._teacher_force(model)
                losses = [found.reference_negative_log_likelihood for found in forced]
            return [
                Prediction(text, reference_negative_log_likelihood=loss, is_cut=is_cut)
                for (text, is_cut), loss in zip(self._generate(model), losses, strict=True)
            ]
        finally:
            model.train(was_training)

    def score_predictions(self, predictions: Sequence[Prediction]) -> TaskScores:
        """The scores of predictions, in the examples' order; no model is needed.

        This is the one place where predictions become results.

        Raises:
            UserError: If the task does not give its primary metric, or one that is not a finite
                number.
        """
        results = self.results(predictions)
        items = primary_scores(self.task, results)
        columns = {name: [result[name] for result in results] for name in results[0]}
        losses = [p.reference_negative_log_likelihood for p in predictions]
        known = [loss for loss in losses if loss is not None]
        if known:
            columns["reference_negative_log_likelihood"] = known
        return TaskScores(
            items=items,
            metrics={name: sum(values) / len(values) for name, values in columns.items()},
            metric_errors={name: standard_error(values) for name, values in columns.items()},
            predictions=tuple(predictions),
            results=tuple(results),
            answers_cut=sum(prediction.is_cut for prediction in predictions),
            confusion=confusion_of(self.task, self.examples, predictions),
        )

    def results(self, predictions: Sequence[Prediction]) -> list[dict[str, float]]:
        """Every metric of each prediction, in the examples' order, as the task scores it."""
        return self.task.score_all(self.examples, predictions)

    def _teacher_force(self, model: PreTrainedModel) -> list[Prediction]:
        scores = reference_token_scores(model, self._references, self._pad, self.batch_size)
        _check_numbers(self.task, (value for found in scores for value in found.log_probabilities))
        return [_forced_prediction(found) for found in scores]

    def _choose(self, model: PreTrainedModel) -> list[Prediction]:
        sums = option_log_likelihoods(model, self._options, self._pad, self.batch_size)
        _check_numbers(self.task, (value for total in sums for value in total))
        return [Prediction(option_log_likelihoods=total) for total in sums]

    def _generate(self, model: PreTrainedModel) -> list[tuple[str, bool]]:
        """Each answer, and whether it had not ended after the most tokens."""
        reader = AnswerReader(self._encoder.tokenizer, ending_texts(model))
        answers = generate_greedily(
            model,
            [prompt.input_ids for prompt in self._prompts],
            max_new_tokens=self.max_new_tokens,
            stop=ending_tokens(model, self._encoder, self._references),
            pad_token_id=self._pad,
            batch_size=self.batch_size,
            reader=reader,
        )
        found = []
        for answer in answers:
            text, is_ended = reader.read(answer)
            found.append((text, len(answer) >= self.max_new_tokens and not is_ended))
        return found


def evaluator_of(
    task: Task,
    examples: Sequence[Example],
    encoder: ChatEncoder,
    batch_size: int,
    max_new_tokens: int | None = None,
) -> TaskEvaluator | HarnessEvaluator:
    """What scores models on a task: this package, or the harness on a task of its own.

    Args:
        task: Whose test it is.
        examples: What to score on; not empty.
        encoder: Encodes conversations; its tokenizer decodes answers.
        batch_size: Examples (or options) scored at once.
        max_new_tokens: Longest answer if that is less than the task's own limit.
    """
    if isinstance(task, HarnessTask):
        return HarnessEvaluator(task, examples, encoder, batch_size, max_new_tokens=max_new_tokens)
    return TaskEvaluator(task, examples, encoder, batch_size, max_new_tokens=max_new_tokens)


@dataclass
class Evaluator:
    """Scores a model on all tasks and keeps the time it takes.

    Attributes:
        tasks: The evaluator of each task by name.
        seconds: Spent in :meth:`score` so far.
    """

    tasks: Mapping[str, TaskEvaluator | HarnessEvaluator]
    seconds: float = 0.0

    def score(
        self,
        model: PreTrainedModel,
        known: Mapping[str, TaskScores] | None = None,
        on_task: Callable[[str, TaskScores], None] | None = None,
    ) -> dict[str, TaskScores]:
        """Scores of every task by name.

        Args:
            model: What is scored.
            known: Scores of some tasks by this very model, which are not measured again.
            on_task: Called with each task that has been scored.
        """
        scores = {}
        for name, evaluator in self.tasks.items():
            if known and name in known:
                scores[name] = known[name]
                continue
            started = perf_counter()
            scores[name] = evaluator.score(model)
            self.seconds += perf_counter() - started
            if on_task:
                on_task(name, scores[name])
        return scores

    @property
    def prompts_cut(self) -> dict[str, int]:
        """Test examples of each task whose prompt lost its beginning."""
        return {name: evaluator.prompts_cut for name, evaluator in self.tasks.items()}

    def warnings_of_prompts(self) -> list[str]:
        """A line for each task whose prompts were cut."""
        return [
            f"task {name!r}: {evaluator.prompts_cut} of {len(evaluator.examples)} test prompts "
            f"lose their beginning, because they exceed {evaluator.longest_prompt}"
            for name, evaluator in self.tasks.items()
            if evaluator.prompts_cut
        ]

    def warnings_of_answers(self, scores: Mapping[str, TaskScores]) -> list[str]:
        """A line for each task with answers that had not ended after the most tokens."""
        return [
            f"task {name!r}: {found.answers_cut} of {len(found.items)} answers had not ended "
            f"after {self.tasks[name].max_new_tokens} tokens (max_new_tokens) and were scored as "
            "they are"
            for name, found in scores.items()
            if found.answers_cut
        ]


def _check_lengths(task: Task, encoded: Iterable[EncodedExample]) -> None:
    """Refuse an answer whose logits would take all memory; a long prompt has been cut before."""
    for number, example in enumerate(encoded, start=1):
        if example.supervised_tokens > LONGEST_ANSWER:
            what = "option" if task.card.scoring == "choice" else "the answer of test example"
            raise UserError(
                f"task {task.name!r}: {what} {number:,} has {example.supervised_tokens:,} tokens, "
                f"and at most {LONGEST_ANSWER:,} of an answer are scored: shorten it, or leave the "
                "row out"
            )


def _check_numbers(task: Task, log_likelihoods: Iterable[float]) -> None:
    """Refuse NaN: the first option would seem the likeliest, and the run would get a score."""
    if any(map(math.isnan, log_likelihoods)):
        raise TrainingFailedError(
            f"the model gives no numbers on the test of task {task.name!r} (NaN): training has "
            "diverged; lower the learning rate"
        )


def primary_scores(task: Task, results: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """A task's primary metric of each answer, on the scale of 0..100.

    Args:
        task: Says which metric that is, and its range.
        results: Metrics of each answer, as the task scored it.

    Raises:
        UserError: If one has no primary metric, or one that is not a finite number.
    """
    _check_results(task, results)
    worst, best = task.card.metric_range
    return tuple(100 * (result[task.card.metric] - worst) / (best - worst) for result in results)


def _check_results(task: Task, results: Sequence[Mapping[str, float]]) -> None:
    for number, result in enumerate(results, start=1):
        if task.card.metric not in result:
            raise UserError(
                f"task {task.name!r} gives no {task.card.metric!r}, its primary metric, for test "
                f"example {number}, but {', '.join(result) or 'nothing'}"
            )
        for name, value in result.items():
            if not math.isfinite(value):
                raise UserError(
                    f"task {task.name!r} gives {name} = {value} for test example {number}: a "
                    "metric must be a finite number"
                )


def _forced_prediction(scores: TokenScores) -> Prediction:
    mean = torch.tensor(scores.log_probabilities, dtype=torch.float64).mean()
    return Prediction(correct_tokens=scores.correct, reference_negative_log_likelihood=-float(mean))


def _prompt_of(reference: EncodedExample) -> EncodedExample:
    """The tokens before the last supervised run: what generation starts from."""
    start = reference.last_answer.start
    return EncodedExample(reference.input_ids[:start], (False,) * start)
