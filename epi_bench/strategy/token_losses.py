"""How well a model predicts each supervised token of training examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import StrategyContext


def token_losses(
    context: StrategyContext,
    model: nn.Module,
    examples: Sequence[EncodedExample],
    batch_size: int = 8,
) -> list[Tensor]:
    """The negative log-likelihood of each predicted token, in evaluation mode, without gradients.

    Args:
        context: Of the strategy; gives the batches.
        model: A causal language model of transformers.
        examples: In any order.
        batch_size: Examples of a forward pass. It changes at most the last bits of the result.

    Returns:
        For each example one single-precision number a token but the first, in nats, on the CPU; NaN
        where the token carries no loss. Number ``i`` is of token ``i + 1``.

    Example:
        .. code-block:: python

            losses = token_losses(self.context, self.context.model, experience.examples)
            means = [float(of_example.nanmean()) for of_example in losses]
    """
    import torch
    from torch.nn.functional import cross_entropy

    was_training, found = model.training, []
    model.eval()
    start = 0
    for batch in context.batches(examples, batch_size):
        with torch.no_grad():
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
        targets = batch["input_ids"][:, 1:]
        losses = cross_entropy(
            logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none"
        ).view(targets.shape)
        losses[batch["labels"][:, 1:] < 0] = float("nan")
        for row, example in enumerate(examples[start : start + batch_size]):
            found.append(losses[row, : len(example) - 1].cpu().clone())
        start += batch_size
    model.train(was_training)
    return found


def mean_token_loss(
    context: StrategyContext, examples: Sequence[EncodedExample], batch_size: int = 16
) -> float:
    """The mean loss of the examples' supervised tokens, in nats, in evaluation mode.

    Args:
        context: Of the strategy; gives the model, the batches and the loss.
        examples: In any order.
        batch_size: Examples of a forward pass. It changes at most the last bits of the result.

    Returns:
        NaN where no token is supervised.
    """
    import torch

    model, total, tokens = context.model, 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in context.batches(examples, batch_size):
            if count := int((batch["labels"][:, 1:] != -100).sum()):
                total += float(context.loss(model, batch)) * count
                tokens += count
    model.train(was_training)
    return total / tokens if tokens else float("nan")
