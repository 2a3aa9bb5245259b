"""How well a model predicts the tokens of reference answers (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.evaluation.supervised_logits import batches_by_length, supervised_scores
from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class TokenScores:
    """How well the supervised tokens of one example are predicted from the true ones before them.

    Attributes:
        log_probabilities: Of each supervised token, in nats.
        correct: Whether it was the arg max.
    """

    log_probabilities: tuple[float, ...]
    correct: tuple[bool, ...]


def reference_token_scores(
    model: nn.Module, references: Sequence[EncodedExample], pad_token_id: int, batch_size: int
) -> list[TokenScores]:
    """Scores of every reference's supervised tokens by teacher forcing, one forward pass a batch.

    Args:
        model: A causal language model in evaluation mode.
        references: What to score.
        pad_token_id: Fills up shorter rows.
        batch_size: Rows of a forward pass.
    """
    found: dict[int, TokenScores] = {}
    for positions, batch in batches_by_length(references, pad_token_id, batch_size, model):
        log_probabilities, correct, predicting = supervised_scores(model, batch)
        for row, position in enumerate(positions):
            chosen = predicting[row]
            found[position] = TokenScores(
                tuple(log_probabilities[row][chosen].double().tolist()),
                tuple(correct[row][chosen].tolist()),
            )
    return [found[position] for position in range(len(references))]
