"""SIFT: train a few weights of each matrix, chosen by the first gradient."""

from __future__ import annotations

import torch

from epi_bench import (
    ChosenWeights,
    Step,
    TradeOff,
    UserError,
    block_matrices,
    register_strategy,
    top_share,
)


@register_strategy("sift")
class SIFT(ChosenWeights):
    """A few weights of each matrix are trained, chosen by the first gradient.

    Sparse increment fine-tuning (Song et al. 2024, arXiv 2312.11875).

    At the first optimizer step the ``share`` with the largest ``|g|`` is chosen in each matrix of
    the blocks, from the complete gradient of the step. These weights are trained in the whole run,
    that step included; all others are bit-identical to the base model: embeddings, output head,
    normalisation weights and biases too.

    Args:
        share: Of each matrix, in (0, 1]; at least one weight of each.
    """

    bytes_per_parameter = "4.5"
    trade_off = TradeOff("share", (0.5, 0.2, 0.05, 0.02, 0.01))

    def __init__(self, share: float = 0.05) -> None:
        if not 0 < share <= 1:
            raise UserError(f"sift: share={share} must lie in (0, 1]")
        super().__init__()
        self.share = share

    def gradients_ready(self, step: Step) -> None:
        """Choose, if that has not been done."""
        if self._refreshes:
            return
        held = {}
        for name, parameter in self.isolation.parameters.items():
            held[name] = torch.ones_like(parameter, dtype=torch.bool)
        for name, parameter in block_matrices(self.isolation.parameters).items():
            if parameter.grad is not None:
                share = max(self.share, 1 / parameter.numel())
                held[name] = ~top_share({name: parameter.grad.abs()}, share)[name]
        self.hold(held)
