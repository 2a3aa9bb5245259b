"""Where plain fine-tuning would take a model, found out beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epi_bench.strategy.finished_weights import trained_parameters

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import StrategyContext


def probed_weights(
    context: StrategyContext,
    examples: Sequence[EncodedExample],
    steps: int,
    purpose: str,
) -> dict[str, Tensor]:
    """The weights after plain fine-tuning for some steps; the model stays as it is, bit for bit.

    .. code-block:: python

        def begin_experience(self, experience):
            probed = probed_weights(self.context, experience.examples, 100, "first probe")

    Costs the training, and two copies of the weights.

    Args:
        context: Of the strategy.
        examples: What is trained.
        steps: Optimizer steps, at least 1.
        purpose: Names the draw of the batches; see :meth:`StrategyContext.probe`.

    Returns:
        For each trained parameter a tensor of its shape and type.
    """
    import torch

    parameters = trained_parameters(context.model)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    context.probe(examples, steps, purpose)
    probed = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
    return probed
