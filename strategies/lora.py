"""LoRA: train low-rank updates and leave the model's own weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from epi_bench import LowRankStrategy, RankAllocation, Step, TradeOff, register_strategy

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "adalora": {},
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
            which are taken out of ``W`` (arXiv 2404.02948); ``adalora``: the layers begin with one
            and a half times the rank, and from a tenth of the run's steps to four fifths of them
            what is least important in the whole model is taken away, until ``rank`` is left on
            average (arXiv 2303.10512).
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
        variant: Literal["plain", "rslora", "dora", "pissa", "adalora"] = "plain",
    ) -> None:
        super().__init__(
            rank, alpha, dropout, target_modules, learning_rate_factor, **SETTINGS[variant]
        )
        self._ranks = RankAllocation(self.adapter) if variant == "adalora" else None

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; only the adapter stays trainable."""
        if self._ranks is None:
            return super().prepare_model(model)
        return self._ranks.wrap(model, self.context.total_steps)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What keeps the factors of ``adalora`` orthogonal; nothing for the others."""
        return None if self._ranks is None else self._ranks.penalty(model)

    def parameters_updated(self, step: Step) -> None:
        """Let ``adalora`` take ranks away."""
        if self._ranks is not None:
            self._ranks.step_done(step.model, step.number)

    def diagnostics(self) -> dict[str, float]:
        """Mean rank of ``adalora``'s layers, until they are merged."""
        ranks = {} if self._ranks is None else self._ranks.ranks(self.context.model)
        return {"mean_rank": sum(ranks.values()) / len(ranks)} if ranks else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Importances and ranks of ``adalora``."""
        return {} if self._ranks is None else self._ranks.state_dict(self.context.model)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        if self._ranks is not None:
            self._ranks.load_state_dict(self.context.model, state)
