"""The diagonal of the empirical Fisher information, as several strategies need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import Experience, StrategyContext


def diagonal_fisher(
    context: StrategyContext,
    parameters: Mapping[str, nn.Parameter],
    examples: Sequence[EncodedExample],
) -> dict[str, Tensor]:
    """``F = mean over examples of g^2`` at the present weights.

    ``g`` is the gradient of one example's mean token loss (supervised tokens only), in evaluation
    mode, one example at a time: the square of a batch's mean gradient would be another quantity.
    Source: Kirkpatrick et al. 2017, arXiv 1612.00796; "empirical" because the labels are the
    data's, not drawn from the model (Kunstner et al. 2019, arXiv 1905.12558).

    Args:
        context: Of the strategy; gives the model, batches and the loss.
        parameters: What is measured, by name. The model's gradients are left alone.
        examples: At least one.

    Returns:
        For each parameter a single-precision tensor of its shape, zero where it has no gradient.
    """
    import torch

    model = context.model
    was_training = model.training
    model.eval()
    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for batch in context.batches(examples, batch_size=1):
        loss = context.loss(model, batch)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                values = gradient.float()
                fisher[name].addcmul_(values, values, value=1 / len(examples))
    model.train(was_training)
    return fisher


def experience_fisher(
    context: StrategyContext,
    parameters: Mapping[str, nn.Parameter],
    experience: Experience,
    samples: int,
    purpose: str | None = None,
) -> dict[str, Tensor]:
    """:func:`diagonal_fisher` on examples of an experience, drawn without replacement.

    .. code-block:: python

        def end_experience(self, experience):
            trained = {n: p for n, p in self.context.model.named_parameters() if p.requires_grad}
            self.importance = experience_fisher(self.context, trained, experience, samples=64)

    Args:
        context: Of the strategy.
        parameters: What is measured, by name.
        experience: Whose training examples are drawn.
        samples: How many, at least 1; all of them where there are fewer.
        purpose: Names the random draw; another one for another draw from the same experience.
    """
    generator = context.generator(purpose or f"fisher samples of experience {experience.index}")
    count = min(samples, len(experience.examples))
    drawn = generator.sample(list(experience.examples), count)
    return diagonal_fisher(context, parameters, drawn)
