"""Log-likelihoods of given texts: of the tokens of a reference, of options to choose from.

Logits are computed only where a token is scored, and what the options of one question have in
common is read once: the prompt goes through the model by itself, and its key-value cache is shared
by the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from epi_bench.evaluation.supervised_logits import batches_by_length, supervised_scores
from epi_bench.model.chat.control_tokens import ControlTokens
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.chat.sequence_start import sequence_start
from epi_bench.model.losses import summed_loss

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


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


@torch.no_grad()
def text_negative_log_likelihood(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, window: int, batch_size: int
) -> tuple[float, int]:
    """Mean negative log-likelihood a token of a running text, in nats, and the number of tokens.

    Args:
        model: In any mode; scored in evaluation mode.
        tokenizer: Of the model.
        text: Data throughout, so it has no control tokens. Cut into windows that do not overlap;
            each begins with what the tokenizer puts before every text, and the first token of each
            is context only.
        window: Tokens of one window.
        batch_size: Windows scored at once.
    """
    prefix = sequence_start(tokenizer)
    ids = text_token_ids(tokenizer, text)
    step = max(window - len(prefix), 1)
    parts = [(*prefix, *ids[start : start + step]) for start in range(0, len(ids), step)]
    context = max(len(prefix), 1)
    windows = [
        EncodedExample(part, (*[False] * context, *[True] * (len(part) - context)))
        for part in parts
        if len(part) > context
    ]
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for _, batch in batches_by_length(windows, int(tokenizer.pad_token_id), batch_size, model):
        summed, tokens = summed_loss(model, batch)
        total += float(summed)
        count += tokens
    model.train(was_training)
    return total / count, count


def text_token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a running text, all of it data, without those a tokenizer adds around it."""
    ids = ControlTokens(tokenizer).encode_data(text)
    if ids is None:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)
