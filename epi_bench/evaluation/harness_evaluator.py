"""Scoring a model on a task of lm-evaluation-harness, by the harness, in memory."""

from __future__ import annotations

import copy
import logging
import math
import numbers
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from epi_bench.errors import TrainingFailedError, UserError, describe_error
from epi_bench.evaluation.scores import TaskScores
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.results.metrics.statistics import standard_error
from epi_bench.spec.randomness import kept_random_states
from epi_bench.task.example import Example, Prediction
from epi_bench.task.harness_task import HarnessTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FEWSHOT_SEED = 1234
"""Of the harness, for the choice of the examples before a question; the same for each row."""


class HarnessEvaluator:
    """Scores models on one task of lm-evaluation-harness; used as a ``TaskEvaluator``.

    The harness asks the model that is given, in evaluation mode and without gradients. Random
    states, the number of threads, the model's mode and its configuration are afterwards what they
    were; what the harness draws depends on none of them.

    Args:
        task: Of the harness.
        examples: Those of its test that are scored; not empty.
        encoder: Its tokenizer is the model's.
        batch_size: Requests at once.
        max_new_tokens: Longest answer if that is less than the task's own limit.

    Attributes:
        prompts_cut: How many of the questions are too long for the model even without examples
            before them, so that the harness cuts their beginning.
        max_length: Longest text in tokens that the tokenizer knows its model to read.
        longest_with_answer: 0: the harness makes its prompts fit.
        encoded: Nothing: the harness encodes.
    """

    longest_with_answer = 0
    encoded: Sequence[EncodedExample] = ()

    def __init__(
        self,
        task: HarnessTask,
        examples: Sequence[Example],
        encoder: ChatEncoder,
        batch_size: int,
        *,
        max_new_tokens: int | None = None,
    ) -> None:
        self.task = task
        self.examples = examples
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens or 0
        self._tokenizer = encoder.tokenizer
        self.max_length = int(self._tokenizer.model_max_length)
        asked = [example.prompt[0]["content"] for example in examples]
        encoded = self._tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
        self.prompts_cut = sum(len(ids) > self.max_length for ids in encoded)
        if max_new_tokens is not None:
            _limit_answers(task.definition, max_new_tokens)

    @property
    def longest_prompt(self) -> str:
        """How long a prompt may be, as a message says it."""
        return f"the {self.max_length} tokens that the model reads: the harness cuts them"

    def score(self, model: PreTrainedModel) -> TaskScores:
        """The harness's scores of a model, item by item.

        Raises:
            TrainingFailedError: If the model gives no numbers.
            UserError: If the harness fails, or a score is not a share from 0 to 1.
        """
        task, name = self.task, self.task.harness_name
        rows = [int(example.meta["row"]) for example in self.examples]
        task.definition.set_fewshot_seed(FEWSHOT_SEED)
        with _undisturbed(model), _quiet():
            try:
                found = self._evaluate(model, rows)
            except (KeyboardInterrupt, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise UserError(
                    f"lm-evaluation-harness fails to score task {task.name!r}: "
                    f"{describe_error(error)}"
                ) from error
        samples = {
            (sample["filter"], sample["doc_id"]): sample for sample in found["samples"][name]
        }
        chosen = [samples[task.score_filter, row] for row in rows]
        predictions = [_prediction(task, sample) for sample in chosen]
        results = [self._result(samples, row) for row in rows]
        return self._scores(results, predictions)

    def _evaluate(self, model: PreTrainedModel, rows: Sequence[int]) -> Mapping[str, Any]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        class InMemory(HFLM):
            """The harness's backend for a model of transformers, without its progress bars."""

            def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
                return super().loglikelihood(requests, disable_tqdm=True)

            def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
                return super().generate_until(requests, disable_tqdm=True)

        backend = InMemory(
            pretrained=model,
            tokenizer=copy.deepcopy(self._tokenizer),  # it changes how it pads
            batch_size=self.batch_size,
            device=str(model.device),
        )
        name = self.task.harness_name
        found = lm_eval.evaluate(
            lm=backend,
            task_dict={name: self.task.definition},
            samples={name: list(rows)},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=self.task.chat_template,
        )
        return found or {}

    def _result(
        self, samples: Mapping[tuple[str, int], Mapping[str, Any]], row: int
    ) -> dict[str, float]:
        """Every metric of an item that is a number, those of each filter."""
        found = {}
        for name in self.task.filters:
            sample = samples[name, row]
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, numbers.Real | bool) and math.isfinite(value):
                    found[self.task.metric_label(metric, name)] = float(value)
        return found

    def _scores(
        self, results: Sequence[Mapping[str, float]], predictions: Sequence[Prediction]
    ) -> TaskScores:
        score = self.task.card.metric
        for number, result in enumerate(results, start=1):
            value = result.get(score)
            if value is None or not 0 <= value <= 1:
                raise UserError(
                    f"task {self.task.name!r}: lm-evaluation-harness gives {score} = {value} for "
                    f"test example {number}, and a score is a share from 0 to 1: choose another "
                    "with the option metric"
                )
        shares = [
            metric
            for metric in results[0]
            if all(0 <= result.get(metric, math.nan) <= 1 for result in results)
        ]
        columns = {metric: [result[metric] for result in results] for metric in shares}
        return TaskScores(
            items=tuple(100 * result[score] for result in results),
            metrics={metric: sum(values) / len(values) for metric, values in columns.items()},
            metric_errors={metric: standard_error(values) for metric, values in columns.items()},
            predictions=tuple(predictions),
            results=tuple({metric: result[metric] for metric in shares} for result in results),
        )


def _prediction(task: HarnessTask, sample: Mapping[str, Any]) -> Prediction:
    """What the model said: a text, or a log-likelihood for each request."""
    answers = [responses[0] for responses in sample["resps"]]
    if task.definition.OUTPUT_TYPE == "generate_until":
        return Prediction(text=str(answers[0]))
    sums = tuple(float(answer[0]) for answer in answers)
    if any(map(math.isnan, sums)):
        raise TrainingFailedError(
            f"the model gives no numbers on the test of task {task.name!r} (NaN): training has "
            "diverged; lower the learning rate"
        )
    return Prediction(option_log_likelihoods=sums)


def _limit_answers(definition: Any, most: int) -> None:
    """Let no answer be longer than so many tokens."""
    if definition.OUTPUT_TYPE != "generate_until":
        return
    given = dict(definition.config.generation_kwargs or {})
    limit = given.get("max_gen_toks", 256)  # the harness's own default
    definition.set_config("generation_kwargs", {**given, "max_gen_toks": min(limit, most)})


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """What the harness changes in passing is afterwards as it was.

    It puts the model into evaluation mode and ties its weights anew, which would undo what a
    strategy has untied; sampling and some tasks draw from the global generators.
    """
    import numpy

    threads, training, caching = torch.get_num_threads(), model.training, model.config.use_cache
    with (
        kept_random_states(),
        torch.random.fork_rng(),
        _replaced(model, "tie_weights", lambda *_, **__: None),
    ):
        random.seed(0)
        numpy.random.seed(0)
        torch.manual_seed(0)
        model.config.use_cache = True  # training turns it off, generation wants it
        try:
            yield
        finally:
            model.config.use_cache = caching
            model.train(training)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's progress bars and hints: a run shows its own."""
    import lm_eval.api.task
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _replaced(lm_eval.api.task, "tqdm", partial(tqdm, disable=True)):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of an object has another value; afterwards it is what it was."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
