"""A new low-rank adapter for each experience, merged when it ends."""

from __future__ import annotations

from epi_bench import Experience, LowRankStrategy, TradeOff, register_strategy


@register_strategy("inc_lora")
class IncLoRA(LowRankStrategy):
    """Each experience trains an adapter of its own; those before are part of the weights.

    At the end of an experience ``W <- W + (alpha / rank) B A``, and the next one begins with ``B``
    of zeros. Called IncLoRA as a baseline of O-LoRA (Wang et al. 2023, arXiv 2310.14152); all
    adapters are active whatever the task, so merging changes nothing but the rounding.

    Args:
        rank: Rank of each experience's update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: As for ``lora``.
        learning_rate_factor: The run's learning rate is multiplied by it.
    """

    needs = ("boundaries",)
    adapter_is_whole = False  # earlier ones are in the weights
    bytes_per_parameter = "0"
    trade_off = TradeOff("rank", (32, 16, 8, 4, 2))
    evidence = (
        "A baseline for ``o_lora`` and ``n_lora``: adapters apart do not protect by themselves."
    )

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
    ) -> None:
        super().__init__(rank, alpha, dropout, target_modules, learning_rate_factor)

    def end_experience(self, experience: Experience) -> None:
        """Merge the adapter and begin another."""
        self.merge_and_restart(f"adapter after experience {experience.index}")
