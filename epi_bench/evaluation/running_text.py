"""How well a model predicts a running text that belongs to no task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from epi_bench.evaluation.supervised_logits import batches_by_length
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.chat.sequence_start import sequence_start
from epi_bench.model.chat.text_tokens import text_token_ids
from epi_bench.model.losses import summed_loss

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class TextLikelihood(NamedTuple):
    """How well a text was predicted.

    Attributes:
        negative_log_likelihood: Mean over the tokens, in nats; the exponential of it is the
            perplexity.
        tokens: How many were predicted.
    """

    negative_log_likelihood: float
    tokens: int


@torch.no_grad()
def text_negative_log_likelihood(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    window: int,
    batch_size: int,
) -> TextLikelihood:
    """Mean negative log-likelihood a token of a running text, or of several.

    Args:
        model: In any mode; scored in evaluation mode.
        tokenizer: Of the model.
        texts: Data throughout, so they have no control tokens. Each is cut into windows that do
            not overlap; each begins with what the tokenizer puts before every text, and the first
            token of each is context only.
        window: Tokens of one window.
        batch_size: Windows scored at once.
    """
    prefix = sequence_start(tokenizer)
    step = max(window - len(prefix), 1)
    encoded = [text_token_ids(tokenizer, t) for t in ([texts] if isinstance(texts, str) else texts)]
    parts = [
        (*prefix, *ids[start : start + step])
        for ids in encoded
        for start in range(0, len(ids), step)
    ]
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
    return TextLikelihood(total / count, count)
