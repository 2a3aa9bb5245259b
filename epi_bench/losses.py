"""The training loss: next-token cross-entropy over supervised tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epi_bench.batching import IGNORED_LABEL

if TYPE_CHECKING:
    from torch import Tensor, nn


def summed_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy summed over the batch's supervised tokens, and their number.

    Dividing the sum by the number of tokens in the whole optimizer step (all micro-batches, all
    processes) makes the result independent of how the step was cut into micro-batches; for a
    single batch it equals ``model(**batch).loss`` of transformers.

    Args:
        model: A causal language model of transformers.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each (batch, length).

    Returns:
        The sum in nats, with its graph, and the number of tokens it runs over.
    """
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    predicting = labels != IGNORED_LABEL
    total = cross_entropy(logits[:, :-1][predicting].float(), labels[predicting], reduction="sum")
    return total, int(predicting.sum())


def mean_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the batch's supervised tokens, in nats, with its graph."""
    total, tokens = summed_loss(model, batch)
    return total / max(tokens, 1)
