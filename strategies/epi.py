"""EPI: the protected set follows the importance as it evolves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from epi_bench import IsolationStrategy, TradeOff, register_strategy


@register_strategy("epi")
class EPI(IsolationStrategy):
    """The most important weights are held still, and measured again as they change.

    Evolving Parameter Isolation (Lin et al. 2026, arXiv 2604.14010):

    1. importance ``I <- beta I + (1 - beta) g^2``
    2. normalised within each parameter tensor
    3. ``M = 1`` for the top ``ratio`` of all normalised scores, one threshold for the whole model
    4. M is measured again every ``interval`` optimizer steps, once ``warmup`` steps are done
    5. ``theta <- theta + (1 - M) delta``, where ``delta`` is what the optimizer finally did

    The sources leave beta, interval, ratio, warm-up and the kind of normalisation open; the
    defaults come from ``scripts/search_hyperparameters.py``.

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
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    bytes_per_parameter = "8 + (2 + experiences) / 8"
    trade_off = TradeOff("ratio", (0.1, 0.3, 0.5, 0.7, 0.9))
    search_space = (
        {"normalisation": "rank", "ratio": 0.5},
        {"normalisation": "rank", "ratio": 0.7},
        {"normalisation": "rank", "ratio": 0.9},
        {"normalisation": "mean", "ratio": 0.5},
        {"normalisation": "mean", "ratio": 0.7},
        {"normalisation": "mean", "ratio": 0.5, "beta": 0.999},
    )
    evidence = (
        "On the embedded suite it keeps more than full fine-tuning and than a random mask, and no "
        "more than a mask that is measured once."
    )

    later_options: ClassVar[Mapping[str, Any]] = {
        **IsolationStrategy.later_options,
        "protect_base": "none",
    }

    def __init__(
        self,
        ratio: float = 0.5,
        interval: int = 20,
        warmup: int = 20,
        beta: float = 0.999,
        normalisation: Literal["min_max", "mean", "rank"] = "mean",
        importance: Literal["ema", "ema_bf16", "factored", "optimizer"] = "ema",
        offload: bool = False,
        protect_base: str = "none",
    ) -> None:
        super().__init__(
            ratio,
            interval,
            warmup,
            beta=beta,
            normalisation=normalisation,
            importance=importance,
            offload=offload,
        )
        self.protect_base = protect_base

    def begin_training(self) -> None:
        """Begin the average with the base model's gradients, if it is to be protected."""
        self.protect_base_now()
