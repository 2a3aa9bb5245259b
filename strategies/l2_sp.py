"""L2-SP: stay close to where training started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
)


@register_strategy("l2_sp")
class L2SP(Strategy):
    """Quadratic penalty on the distance from an anchor (Li et al. 2018, arXiv 1802.01483).

    ``loss + strength / 2 * sum_i (theta_i - anchor_i)^2`` over all trained weights; every weight
    counts the same, which makes it EWC with a constant Fisher information.

    Args:
        strength: Weight of the penalty, at least 0 (alpha in the paper).
        anchor: ``base``: the weights before the stream, as in the paper; ``previous``: the weights
            at the beginning of the experience, from the second one on.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "4"
    trade_off = TradeOff("strength", (0.001, 0.01, 0.1, 1.0))
    search_space = tuple(
        {"strength": strength, "anchor": anchor}
        for anchor in ("base", "previous")
        for strength in (0.01, 0.1, 1.0)
    )
    evidence = (
        "On the embedded suite it keeps a part and learns nearly as much as full fine-tuning."
    )

    def __init__(
        self, strength: float = 0.1, anchor: Literal["base", "previous"] = "previous"
    ) -> None:
        if strength < 0:
            raise UserError(f"l2_sp: strength={strength} must be at least 0")
        self.strength = strength
        self.anchor = anchor
        self.acts_from = 0 if anchor == "base" else 1
        self._anchors: dict[str, Tensor] = {}

    def begin_experience(self, experience: Experience) -> None:
        """Take the anchor."""
        first = experience.index == 0
        if (self.anchor == "base" and first) or (self.anchor == "previous" and not first):
            self._anchors = {
                name: parameter.detach().clone()
                for name, parameter in self.context.model.named_parameters()
                if parameter.requires_grad
            }

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The quadratic penalty, or ``None`` while there is no anchor."""
        if not self._anchors or self.strength == 0:
            return None
        distances = [
            (parameter - self._anchors[name]).square().sum()
            for name, parameter in model.named_parameters()
            if name in self._anchors
        ]
        return self.strength / 2 * torch.stack(distances).sum()

    def stiffness(self) -> Mapping[str, Tensor]:
        """The same for all weights."""
        anchors = self._anchors if self.strength > 0 else {}
        return {name: torch.ones(()).expand(anchor.shape) for name, anchor in anchors.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The anchors."""
        return dict(self._anchors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the anchors."""
        self._anchors = {k: v.to(self.context.device, copy=True) for k, v in state.items()}
