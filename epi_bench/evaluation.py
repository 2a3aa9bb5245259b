"""Scoring a model on every task: text generation, choice between options, teacher forcing.

Examples are encoded once; each evaluation sorts them by length, so batches hold little padding.
Scores do not depend on the batch size (up to the rounding of matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from epi_bench.batching import IGNORED_LABEL, collate, length_sorted_batches
from epi_bench.chat import ChatEncoder, EncodedExample
from epi_bench.losses import summed_loss
from epi_bench.task import Example, Prediction, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TaskScores:
    """How a model did on one task.

    Attributes:
        items: Primary metric of each test item, 0..100, in the examples' order.
        metrics: Mean of every metric the task reports, in the task's own units.
        texts: The generated answers (scoring mode ``generate``), in the examples' order.
    """

    items: tuple[float, ...]
    metrics: Mapping[str, float]
    texts: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The task's score, 0..100."""
        return sum(self.items) / len(self.items)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over items; ``None`` for a single item."""
        count = len(self.items)
        if count < 2:
            return None
        mean = self.mean
        variance = sum((item - mean) ** 2 for item in self.items) / (count - 1)
        return math.sqrt(variance / count)


class TaskEvaluator:
    """Scores models on one task's test examples.

    Args:
        task: Gives scoring mode and scorer.
        examples: What to score on; not empty.
        encoder: Encodes conversations; its tokenizer decodes answers.
        batch_size: Examples (or options) scored at once.
    """

    def __init__(
        self, task: Task, examples: Sequence[Example], encoder: ChatEncoder, batch_size: int
    ) -> None:
        self.task = task
        self.examples = examples
        self.batch_size = batch_size
        self._tokenizer = encoder.tokenizer
        self._pad = int(self._tokenizer.pad_token_id)
        if task.card.scoring == "choice":
            self._options = [encoder.encode_options(e.prompt, e.options) for e in examples]
        else:
            self._references = [encoder.encode_for_scoring(e.messages) for e in examples]
        if task.card.scoring == "generate":
            self._prompts = [_prompt_of(reference) for reference in self._references]

    @torch.no_grad()
    def score(self, model: PreTrainedModel) -> TaskScores:
        """The model's scores, in evaluation mode; its training mode is restored afterwards."""
        was_training = model.training
        model.eval()
        try:
            predictions = self._predict(model)
        finally:
            model.train(was_training)
        results = self.task.score_all(self.examples, predictions)
        card = self.task.card
        worst, best = card.metric_range
        items = tuple(100 * (result[card.metric] - worst) / (best - worst) for result in results)
        metrics = {
            name: sum(result[name] for result in results) / len(results) for name in results[0]
        }
        losses = [p.reference_negative_log_likelihood for p in predictions]
        known = [loss for loss in losses if loss is not None]
        if known:
            metrics["reference_negative_log_likelihood"] = sum(known) / len(known)
        generated = card.scoring == "generate"
        return TaskScores(items, metrics, tuple(p.text for p in predictions if generated))

    def _predict(self, model: PreTrainedModel) -> list[Prediction]:
        if self.task.card.scoring == "choice":
            return self._choose(model)
        forced = self._teacher_force(model)
        if self.task.card.scoring == "teacher_forced":
            return forced
        texts = self._generate(model)
        return [
            Prediction(text, (), (), prediction.reference_negative_log_likelihood)
            for text, prediction in zip(texts, forced, strict=True)
        ]

    def _teacher_force(self, model: nn.Module) -> list[Prediction]:
        predictions: list[Prediction | None] = [None] * len(self.examples)
        for positions, batch in self._batches(self._references, model):
            log_probabilities, correct, predicting = _token_scores(model, batch)
            for row, position in enumerate(positions):
                chosen = predicting[row]
                predictions[position] = Prediction(
                    correct_tokens=tuple(correct[row][chosen].tolist()),
                    reference_negative_log_likelihood=-float(
                        log_probabilities[row][chosen].double().mean()
                    ),
                )
        return [prediction for prediction in predictions if prediction is not None]

    def _choose(self, model: nn.Module) -> list[Prediction]:
        """Log-likelihood of each option; one forward pass for options of a single token."""
        flat = [option for options in self._options for option in options]
        single = all(option.supervised_tokens == 1 and option.supervised[-1] for option in flat)
        if single:
            rows = [options[0] for options in self._options]
            sums = self._single_token_options(model, rows)
        else:
            totals = [0.0] * len(flat)
            for positions, batch in self._batches(flat, model):
                log_probabilities, _, predicting = _token_scores(model, batch)
                summed = (log_probabilities.double() * predicting).sum(dim=1).tolist()
                for position, total in zip(positions, summed, strict=True):
                    totals[position] = total
            iterator = iter(totals)
            sums = [tuple(next(iterator) for _ in options) for options in self._options]
        return [Prediction(option_log_likelihoods=total) for total in sums]

    def _single_token_options(
        self, model: nn.Module, rows: Sequence[EncodedExample]
    ) -> list[tuple[float, ...]]:
        sums: list[tuple[float, ...]] = [()] * len(rows)
        for positions, batch in self._batches(rows, model):
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            last = batch["attention_mask"].sum(dim=1) - 2  # the token before the option
            final = logits[torch.arange(len(positions)), last].float().log_softmax(dim=-1)
            for row, position in enumerate(positions):
                tokens = [option.input_ids[-1] for option in self._options[position]]
                sums[position] = tuple(final[row, tokens].double().tolist())
        return sums

    def _generate(self, model: PreTrainedModel) -> list[str]:
        from transformers import GenerationConfig

        stop = _end_of_turn_ids(self._references, self._tokenizer)
        settings = GenerationConfig(
            max_new_tokens=self.task.card.max_new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=self._pad,
            use_cache=True,
        )
        generate: Any = model.generate
        answers = [""] * len(self._prompts)
        lengths = [len(prompt) for prompt in self._prompts]
        for positions in length_sorted_batches(lengths, self.batch_size):
            prompts = [self._prompts[position] for position in positions]
            ids, mask = _left_padded(prompts, self._pad, _device_of(model))
            output = generate(input_ids=ids, attention_mask=mask, generation_config=settings)

            for position, row in zip(positions, output[:, ids.shape[1] :].tolist(), strict=True):
                answers[position] = self._decode(row, stop)
        return answers

    def _decode(self, ids: Sequence[int], stop: Sequence[int]) -> str:
        end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
        return str(self._tokenizer.decode(list(ids[:end]), skip_special_tokens=True))

    def _batches(
        self, encoded: Sequence[EncodedExample], model: nn.Module
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        lengths = [len(example) for example in encoded]
        for positions in length_sorted_batches(lengths, self.batch_size):
            rows = [encoded[position] for position in positions]
            yield positions, collate(rows, self._pad, _device_of(model))


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


@torch.no_grad()
def text_negative_log_likelihood(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, window: int, batch_size: int
) -> tuple[float, int]:
    """Mean negative log-likelihood a token of a running text, in nats, and the number of tokens.

    Args:
        model: In any mode; scored in evaluation mode.
        tokenizer: Of the model.
        text: Cut into windows that do not overlap; the first token of each is context only.
        window: Tokens of one window.
        batch_size: Windows scored at once.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    windows = [
        EncodedExample(tuple(part), (False, *[True] * (len(part) - 1)))
        for part in (ids[start : start + window] for start in range(0, len(ids), window))
        if len(part) > 1
    ]
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for positions in length_sorted_batches([len(part) for part in windows], batch_size):
        rows = [windows[position] for position in positions]
        summed, tokens = summed_loss(
            model, collate(rows, int(tokenizer.pad_token_id), _device_of(model))
        )
        total += float(summed)
        count += tokens
    model.train(was_training)
    return total / count, count


def _token_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, arg-max hit and whether it counts, of each token (batch, length - 1)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits, labels = logits[:, :-1], batch["labels"][:, 1:]
    predicting = labels != IGNORED_LABEL
    chosen = logits[predicting].float()
    wanted = labels[predicting]
    log_probabilities = torch.zeros(labels.shape, device=labels.device)
    log_probabilities[predicting] = -torch.nn.functional.cross_entropy(
        chosen, wanted, reduction="none"
    )
    correct = torch.zeros_like(predicting)
    correct[predicting] = chosen.argmax(dim=-1) == wanted
    return log_probabilities, correct, predicting


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


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
