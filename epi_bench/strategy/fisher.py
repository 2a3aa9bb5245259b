"""The empirical Fisher information, as several strategies need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import Experience, StrategyContext

Labels = Literal["data", "model"]
"""Which tokens the gradients are those of: the data's, or ones drawn from the model."""


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

    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for name, gradient in example_gradients(context, parameters, examples):
        fisher[name].addcmul_(gradient, gradient, value=1 / len(examples))
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
    drawn = fisher_samples(context, experience, samples, purpose)
    return diagonal_fisher(context, parameters, drawn)


def fisher_samples(
    context: StrategyContext, experience: Experience, samples: int, purpose: str | None = None
) -> list[EncodedExample]:
    """The examples of an experience on which its Fisher information is measured.

    Args:
        context: Of the strategy.
        experience: Whose training examples are drawn.
        samples: How many, at least 1; all of them where there are fewer.
        purpose: Names the random draw.
    """
    generator = context.generator(purpose or f"fisher samples of experience {experience.index}")
    count = min(samples, len(experience.examples))
    return generator.sample(list(experience.examples), count)


def example_gradients(
    context: StrategyContext,
    parameters: Mapping[str, nn.Parameter],
    examples: Sequence[EncodedExample],
    labels: Labels = "data",
) -> Iterator[tuple[str, Tensor]]:
    """The gradient of each example's mean token loss, tensor by tensor, in evaluation mode.

    One example's gradients exist at a time: 4 bytes a parameter beside the model, as in a training
    step.

    Args:
        context: Of the strategy.
        parameters: What is measured, by name. The model's gradients are left alone.
        examples: One after the other.
        labels: ``data``: of the examples' own tokens; ``model``: each supervised token is drawn
            anew from what the model expects in its place, which makes the mean of the squares the
            Fisher information itself and not its empirical form (arXiv 1905.12558).

    Yields:
        A parameter's name, and a single-precision gradient.
    """
    import torch

    model = context.model
    was_training = model.training
    model.eval()
    draws = context.torch_generator("labels of the Fisher pass") if labels == "model" else None
    for batch in context.batches(examples, batch_size=1):
        drawn = batch
        if draws is not None:
            drawn = {**batch, "labels": _drawn_labels(model, batch, draws)}
            context.count_tokens(int(batch["attention_mask"].sum()))
        loss = context.loss(model, drawn)
        gradients: list[Tensor | None] = [
            *torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        ]
        for position, name in enumerate(parameters):
            gradient, gradients[position] = gradients[position], None
            if gradient is not None:
                yield name, gradient.float()
    model.train(was_training)


def _drawn_labels(
    model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Labels drawn from the model where the batch has any; the context stays the data's."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
            :, :-1
        ]
    labels = batch["labels"].clone()
    predicted = labels[:, 1:] >= 0
    likely = logits[predicted].float().softmax(-1).cpu()
    drawn = torch.multinomial(likely, 1, generator=generator)[:, 0]
    labels[:, 1:][predicted] = drawn.to(labels.device)
    return labels
