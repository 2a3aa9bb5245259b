"""What a run is measured with: its evaluator, its general text, its gradient-conflict probe."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from epi_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from epi_bench.evaluation.divergence import BaseDistributions
    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.gradient_conflict import ConflictProbe
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.model.load import Backbone
    from epi_bench.runs.prepared import PreparedRun
    from epi_bench.training.context import TrainingContext

LONGEST_WINDOW = 256
"""Tokens of the general text that are read at a time, unless ``data.max_length`` is less."""


class GeneralText:
    """A text that no task trains; how well it is predicted tells what the model has kept.

    Args:
        backbone: Its tokenizer reads the text; a ``general_text.txt`` beside the model replaces
            the one that is shipped.
        max_length: Longest text of the run, in tokens.
        batch_size: Windows read at once.
        texts: What the user gave in place of both, or ``None``.

    Attributes:
        token_ids: The text, or several one after the other.
        window: Tokens that are read at a time.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_length: int,
        batch_size: int,
        texts: Sequence[str] | None = None,
    ) -> None:
        from epi_bench.model.chat.text_tokens import text_token_ids
        from epi_bench.model.location import general_text

        self._tokenizer = backbone.tokenizer
        self._texts = texts or [general_text(backbone.location)]
        self._batch_size = batch_size
        self.window = min(max_length, LONGEST_WINDOW)
        self.token_ids = [
            token for text in self._texts for token in text_token_ids(backbone.tokenizer, text)
        ]

    def negative_log_likelihood(self, model: PreTrainedModel) -> tuple[float, int]:
        """Mean in nats a token, and the number of tokens it runs over."""
        from epi_bench.evaluation.running_text import text_negative_log_likelihood

        return text_negative_log_likelihood(
            model, self._tokenizer, self._texts, self.window, self._batch_size
        )


def general_text_of(prepared: PreparedRun, backbone: Backbone) -> GeneralText:
    """The general text of a run.

    Raises:
        UserError: If the one beside the model is too short to predict anything.
    """
    from epi_bench.model.location import GENERAL_TEXT

    spec = prepared.spec
    batch_size = spec.evaluation.batch_size
    text = GeneralText(backbone, spec.data.max_length, batch_size, prepared.general_texts)
    if len(text.token_ids) < 2:
        raise UserError(
            f"the {GENERAL_TEXT} of {spec.model.name} is a single token: "
            "write more text into it, or remove it for the default"
        )
    return text


def make_evaluator(prepared: PreparedRun) -> Evaluator:
    """Scores a model on the test examples of every task of the run."""
    from epi_bench.evaluation.evaluator import Evaluator, evaluator_of

    spec = prepared.spec.evaluation
    return Evaluator(
        {
            name: evaluator_of(
                task.task, task.test, prepared.encoder, spec.batch_size, spec.max_new_tokens
            )
            for name, task in prepared.scored_tasks.items()
        }
    )


def make_conflict_probe(prepared: PreparedRun, context: TrainingContext) -> ConflictProbe | None:
    """Compares the tasks' gradients; ``None`` for a single task, or if the user turned it off.

    Args:
        prepared: Gives the examples.
        context: Of the training; the probe's draws are its own.
    """
    from epi_bench.evaluation.gradient_conflict import ConflictProbe

    count = prepared.spec.evaluation.probe_examples
    if count == 0 or len(prepared.tasks) < 2:
        return None
    generator = context.generator("gradient-conflict probes")
    probes = {
        name: generator.sample(list(task.train), min(count, len(task.train)))
        for name, task in prepared.tasks.items()
    }
    return ConflictProbe(
        probes,
        context.pad_token_id,
        prepared.spec.training.batch_size,
        context.torch_generator("gradient-conflict coordinates"),
    )


def make_base_distributions(prepared: PreparedRun) -> BaseDistributions | None:
    """Measures how far a model is from the base model; ``None`` if the user turned it off.

    Its examples are drawn from the test examples of each trained task, the same in every run.
    """
    from epi_bench.evaluation.divergence import BaseDistributions

    count = prepared.spec.evaluation.kl_examples
    if count == 0:
        return None
    encoder = prepared.encoder
    drawn = {}
    for name, task in prepared.tasks.items():
        draws = random.Random(f"divergence examples of {name}")
        positions = sorted(draws.sample(range(len(task.test)), min(count, len(task.test))))
        drawn[name] = [encoder.scoring(task.test[position].messages) for position in positions]
    return BaseDistributions(drawn, int(encoder.tokenizer.pad_token_id))


def check_texts(
    prepared: PreparedRun, backbone: Backbone, evaluator: Evaluator, text: GeneralText
) -> list[str]:
    """Find out before anything is written whether the model reads all that the run gives it.

    Args:
        prepared: Gives the training examples.
        backbone: Model and tokenizer.
        evaluator: Gives the test examples.
        text: Is read too.

    Returns:
        Warnings.

    Raises:
        UserError: If a text is too long for the model, or holds a token that it does not know.
    """
    from epi_bench.model.limits import check_fit

    lengths = {"the general text": min(text.window, len(text.token_ids))}
    with_answers = {}
    encoded: list[EncodedExample] = []
    for name in prepared.scored_tasks:
        scored, trained = evaluator.tasks[name], prepared.tasks.get(name)
        read = [*(trained.train if trained else ()), *scored.encoded]
        lengths[f"a text of task {name!r}"] = max((len(example) for example in read), default=0)
        with_answers[f"a text of task {name!r}"] = scored.longest_with_answer
        encoded += read
    texts = chain([text.token_ids], (example.input_ids for example in encoded))
    return check_fit(backbone.model, backbone.tokenizer, lengths, with_answers, texts)
