"""Random mask: the control for "does it matter which weights are protected?"."""

from __future__ import annotations

import torch

from epi_bench import IsolationStrategy, Step, TradeOff, register_strategy


@register_strategy("random_mask")
class RandomMask(IsolationStrategy):
    """EPI's schedule with a protected set that is redrawn uniformly at each refresh.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1).
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
    """

    bytes_per_parameter = "8 + (2 + experiences) / 8"
    trade_off = TradeOff("ratio", (0.3, 0.5, 0.7, 0.9))
    search_space = (
        {"ratio": 0.5},
        {"ratio": 0.7},
        {"ratio": 0.9},
    )
    evidence = "A control: what a mask keeps without aim."

    def __init__(self, ratio: float = 0.7, interval: int = 20, warmup: int = 20) -> None:
        super().__init__(ratio, interval, warmup)

    def gradients_ready(self, step: Step) -> None:
        """Nothing: the mask does not depend on gradients."""

    def refresh(self) -> None:
        """Protect weights drawn uniformly, others than before."""
        generator = self.context.torch_generator(f"random mask {self._refreshes}")
        self.isolation.refresh_from(
            {
                name: torch.rand(parameter.shape, generator=generator)
                for name, parameter in self.isolation.parameters.items()
            }
        )
