"""Inverted mask: the control that protects what EPI considers least important."""

from __future__ import annotations

from typing import Literal

from epi_bench import IsolationStrategy, TradeOff, register_strategy


@register_strategy("inverted_mask")
class InvertedMask(IsolationStrategy):
    """EPI with the ``ratio`` of weights protected whose normalised importance is smallest.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1).
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
        beta: Decay of the importance, in [0, 1).
        normalisation: Within each tensor: ``min_max``, ``mean`` or ``rank``.
        importance: How importance is kept, and its bytes a parameter: ``ema`` (4), ``ema_bf16``
            (2), ``factored`` (about 0), ``optimizer`` (0; reads AdamW's own second moment, so
            clipped gradients and a decay of beta2).
        offload: Keep the importance in the memory of the CPU instead of the GPU.
    """

    bytes_per_parameter = "8 + (2 + experiences) / 8"
    trade_off = TradeOff("ratio", (0.3, 0.5, 0.7, 0.9))
    search_space = (
        {"ratio": 0.3},
        {"ratio": 0.5},
        {"ratio": 0.7},
    )
    evidence = "A control: it should keep least of all masks, and does on the embedded suite."

    def __init__(
        self,
        ratio: float = 0.7,
        interval: int = 20,
        warmup: int = 20,
        beta: float = 0.99,
        normalisation: Literal["min_max", "mean", "rank"] = "rank",
        importance: Literal["ema", "ema_bf16", "factored", "optimizer"] = "ema",
        offload: bool = False,
    ) -> None:
        super().__init__(
            ratio,
            interval,
            warmup,
            beta=beta,
            normalisation=normalisation,
            largest=False,
            importance=importance,
            offload=offload,
        )
