"""LoRA: train low-rank updates and leave the model's own weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from epi_bench import LowRankStrategy, TradeOff, register_strategy

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
"""Of ``peft.LoraConfig``, for each variant."""


@register_strategy("lora")
class LoRA(LowRankStrategy):
    """One low-rank adapter, trained on through the whole stream (Hu et al. 2021, arXiv 2106.09685).

    Each adapted layer computes ``W x + (alpha / rank) B A x`` with ``W`` frozen. Built with
    ``peft``; the adapter is merged into the weights at the end.

    Args:
        rank: Rank of the update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: Names of the layers to adapt, or the ends of their paths, separated by
            commas; ``all-linear`` adapts every linear layer but the output head. A layer whose
            weights the model uses twice, as tied embeddings are, is refused.
        learning_rate_factor: The run's learning rate is multiplied by it; pre-trained models
            usually want 10 or more, the embedded one learns best with 1.
        variant: ``plain``; ``rslora``: scaled by ``alpha / sqrt(rank)``, for high ranks (arXiv
            2312.03732); ``dora``: direction and length of each row are trained apart (arXiv
            2402.09353); ``pissa``: the adapter begins as the largest singular directions of ``W``,
            which are taken out of ``W`` (arXiv 2404.02948).
    """

    bytes_per_parameter = "0"
    trade_off = TradeOff("rank", (64, 32, 16, 8, 4))
    search_space = (
        {"learning_rate_factor": 1.0},
        {"learning_rate_factor": 3.0},
        {"learning_rate_factor": 10.0},
    )
    evidence = "Reported to learn less and to forget less than full fine-tuning (arXiv 2405.09673)."

    later_options: ClassVar[Mapping[str, Any]] = {"variant": "plain"}

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
        variant: Literal["plain", "rslora", "dora", "pissa"] = "plain",
    ) -> None:
        super().__init__(
            rank, alpha, dropout, target_modules, learning_rate_factor, **SETTINGS[variant]
        )
