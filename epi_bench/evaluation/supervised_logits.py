"""The logits at supervised positions, without those at all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from epi_bench.evaluation.key_value_cache import accepts_logits_to_keep, device_of
from epi_bench.model.batching import IGNORED_LABEL, collate, length_sorted_batches
from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    from torch import nn


class SupervisedLogits(NamedTuple):
    """What a model predicts at the positions that predict a supervised token in any row.

    Attributes:
        logits: (rows, positions, vocabulary).
        labels: The next tokens (rows, positions).
        predicting: Whether the position counts in its row (rows, positions).
    """

    logits: Tensor
    labels: Tensor
    predicting: Tensor


class SupervisedScores(NamedTuple):
    """How well the supervised tokens are predicted, at the same positions.

    Attributes:
        log_probabilities: Of the next token in nats, 0 where it does not count (rows, positions).
        correct: Whether it is the arg max (rows, positions).
        predicting: Whether the position counts in its row (rows, positions).
    """

    log_probabilities: Tensor
    correct: Tensor
    predicting: Tensor


def supervised_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> SupervisedScores:
    """Log-probability and arg-max hit at each position with a supervised token.

    Args:
        model: A causal language model in evaluation mode.
        batch: As :func:`epi_bench.model.batching.collate` makes it.
    """
    found = supervised_logits(model, batch)
    log_probabilities, correct = scores_where(found.predicting, found.logits, found.labels)
    return SupervisedScores(log_probabilities, correct, found.predicting)


def supervised_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> SupervisedLogits:
    """Logits at the positions that predict in any row, and at no others where the model can."""
    labels = batch["labels"][:, 1:]
    predicting = labels != IGNORED_LABEL
    columns = predicting.any(dim=0).nonzero().flatten()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if accepts_logits_to_keep(model):
        logits = model(**inputs, logits_to_keep=columns).logits
    else:
        logits = model(**inputs).logits[:, columns]
    return SupervisedLogits(logits, labels[:, columns], predicting[:, columns])


def scores_where(predicting: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, and whether it is the arg max; 0 where it does not count."""
    chosen, wanted = logits[predicting].float(), labels[predicting]
    log_probabilities = torch.zeros(labels.shape, device=labels.device)
    log_probabilities[predicting] = -torch.nn.functional.cross_entropy(
        chosen, wanted, reduction="none"
    )
    correct = torch.zeros_like(predicting)
    correct[predicting] = chosen.argmax(dim=-1) == wanted
    return log_probabilities, correct


def batches_by_length(
    encoded: Sequence[EncodedExample], pad_token_id: int, batch_size: int, model: nn.Module
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Batches of examples of about the same length, and the examples' positions."""
    for positions in length_sorted_batches([len(example) for example in encoded], batch_size):
        rows = [encoded[position] for position in positions]
        yield positions, collate(rows, pad_token_id, device_of(model))
