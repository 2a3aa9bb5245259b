"""The baseline that most comparisons lack: full fine-tuning in smaller steps."""

from __future__ import annotations

from epi_bench import Strategy, TradeOff, UserError, register_strategy


@register_strategy("low_learning_rate")
class LowLearningRate(Strategy):
    """Full fine-tuning with the run's learning rate divided by ``divisor``.

    ``lr <- lr / divisor``. Smaller steps forget less and learn less; how good the trade is decides
    whether another method is worth its trouble (arXiv 2509.20758: general ability is kept at the
    same gain on the target). Every method that "forgets less" is to be compared with it at equal
    learning.

    Args:
        divisor: At least 1; with 1 it is full fine-tuning.
    """

    family = "baseline"
    bytes_per_parameter = "0"
    trade_off = TradeOff("divisor", (2.0, 4.0, 8.0, 16.0, 32.0))
    evidence = (
        "General ability is reported to be kept at the same gain on the target (arXiv 2509.20758)."
    )

    def __init__(self, divisor: float = 4.0) -> None:
        if not divisor >= 1:
            raise UserError(f"low_learning_rate: divisor={divisor} must be at least 1")
        self.learning_rate_factor = 1 / divisor
