"""Scoring a model on every task: text generation, choice between options, teacher forcing.

Examples are encoded once; each evaluation sorts them by length, so batches hold little padding.
Scores do not depend on the batch size (up to the rounding of matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from epi_bench.chat import ChatEncoder, EncodedExample
from epi_bench.generation import generate_greedily
from epi_bench.likelihood import (
    TokenScores,
    option_log_likelihoods,
    reference_token_scores,
    text_negative_log_likelihood,
)
from epi_bench.task import Example, Prediction, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Evaluator", "TaskEvaluator", "TaskScores", "text_negative_log_likelihood"]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """How a model did on one task.

    Attributes:
        items: Primary metric of each test item, 0..100, in the examples' order.
        metrics: Mean of every metric the task reports, in the task's own units.
        metric_errors: Standard error of each of these means; ``None`` for a single item.
        predictions: What the model said to each item; empty if it was not kept.
        results: Metrics of each item as the task returned them; empty if they were not kept.
    """

    items: tuple[float, ...]
    metrics: Mapping[str, float]
    metric_errors: Mapping[str, float | None] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    results: tuple[Mapping[str, float], ...] = ()

    @property
    def mean(self) -> float:
        """The task's score, 0..100."""
        return sum(self.items) / len(self.items)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over items; ``None`` for a single item."""
        return standard_error(self.items)

    def without_predictions(self) -> TaskScores:
        """The same scores without what they were computed from."""
        return replace(self, predictions=(), results=())


class TaskEvaluator:
    """Scores models on one task's test examples.

    Scoring has two halves that can be used by themselves: :meth:`predict` asks the model,
    :meth:`score_predictions` needs the predictions only.

    Args:
        task: Gives scoring mode and scorer.
        examples: What to score on; not empty.
        encoder: Encodes conversations; its tokenizer decodes answers.
        batch_size: Examples (or options) scored at once.
        reference_loss: Whether the log-likelihood of the reference is measured where text is
            generated; it costs a forward pass over prompt and reference.
        max_new_tokens: Longest answer if that is less than the task's own limit.
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
        self._tokenizer = encoder.tokenizer
        self._pad = int(self._tokenizer.pad_token_id)
        if task.card.scoring == "choice":
            self._options = [encoder.encode_options(e.prompt, e.options) for e in examples]
        else:
            self._references = [encoder.encode_for_scoring(e.messages) for e in examples]
        if task.card.scoring == "generate":
            self._prompts = [_prompt_of(reference) for reference in self._references]

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
            texts = self._generate(model)
            return [
                Prediction(text, reference_negative_log_likelihood=loss)
                for text, loss in zip(texts, losses, strict=True)
            ]
        finally:
            model.train(was_training)

    def score_predictions(self, predictions: Sequence[Prediction]) -> TaskScores:
        """The scores of predictions, in the examples' order; no model is needed.

        This is the one place where predictions become results.
        """
        results = self.results(predictions)
        card = self.task.card
        worst, best = card.metric_range
        items = tuple(100 * (result[card.metric] - worst) / (best - worst) for result in results)
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
        )

    def results(self, predictions: Sequence[Prediction]) -> list[dict[str, float]]:
        """Every metric of each prediction, in the examples' order, as the task scores it."""
        return self.task.score_all(self.examples, predictions)

    def _teacher_force(self, model: PreTrainedModel) -> list[Prediction]:
        scores = reference_token_scores(model, self._references, self._pad, self.batch_size)
        return [_forced_prediction(found) for found in scores]

    def _choose(self, model: PreTrainedModel) -> list[Prediction]:
        sums = option_log_likelihoods(model, self._options, self._pad, self.batch_size)
        return [Prediction(option_log_likelihoods=total) for total in sums]

    def _generate(self, model: PreTrainedModel) -> list[str]:
        answers = generate_greedily(
            model,
            self._prompts,
            max_new_tokens=self.max_new_tokens,
            stop=_end_of_turn_ids(self._references, self._tokenizer),
            pad_token_id=self._pad,
            batch_size=self.batch_size,
        )
        decode = self._tokenizer.decode
        return [str(decode(answer, skip_special_tokens=True)) for answer in answers]


@dataclass
class Evaluator:
    """Scores a model on all tasks and keeps the time it takes."""

    tasks: Mapping[str, TaskEvaluator]
    seconds: float = 0.0

    def score(self, model: PreTrainedModel) -> dict[str, TaskScores]:
        """Scores of every task by name."""
        started = perf_counter()
        scores = {name: evaluator.score(model) for name, evaluator in self.tasks.items()}
        self.seconds += perf_counter() - started
        return scores


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean, from the sample variance; ``None`` for a single value."""
    count = len(values)
    if count < 2:
        return None
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return math.sqrt(variance / count)


def _forced_prediction(scores: TokenScores) -> Prediction:
    mean = torch.tensor(scores.log_probabilities, dtype=torch.float64).mean()
    return Prediction(correct_tokens=scores.correct, reference_negative_log_likelihood=-float(mean))


def _prompt_of(reference: EncodedExample) -> list[int]:
    """The tokens before the last supervised run: what generation starts from."""
    end = max(i for i, supervised in enumerate(reference.supervised) if supervised)
    while end > 0 and reference.supervised[end - 1]:
        end -= 1
    return list(reference.input_ids[:end])


def _end_of_turn_ids(
    references: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Tokens that end an answer: the tokenizer's own, and what the template closes turns with."""
    special = set(tokenizer.all_special_ids)
    stop = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    for reference in references:
        last = max(i for i, supervised in enumerate(reference.supervised) if supervised)
        if reference.input_ids[last] in special:
            stop.add(reference.input_ids[last])
    return sorted(stop)
