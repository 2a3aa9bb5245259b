"""LoRA: train low-rank updates and leave the model's own weights alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from epi_bench import Strategy, UserError, register_strategy


@register_strategy("lora")
class LoRA(Strategy):
    """One low-rank adapter, trained on through the whole stream (Hu et al. 2021, arXiv 2106.09685).

    Each adapted layer computes ``W x + (alpha / rank) B A x`` with ``W`` frozen. Built with
    ``peft``; the adapter is merged into the weights at the end.

    Args:
        rank: Rank of the update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: Names of the layers to adapt, separated by commas; ``all-linear`` adapts
            every linear layer but the output head.
        learning_rate_factor: The run's learning rate is multiplied by it; pre-trained models
            usually want 10 or more, the embedded one learns best with 1.
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
    ) -> None:
        if rank < 1:
            raise UserError(f"lora: rank={rank} must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"lora: dropout={dropout} must lie in [0, 1)")
        if learning_rate_factor <= 0:
            raise UserError(f"lora: learning_rate_factor={learning_rate_factor} must be above 0")
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        self.learning_rate_factor = learning_rate_factor

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; only the adapter stays trainable."""
        from peft import LoraConfig, get_peft_model

        named = self.target_modules.split(",")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=named if len(named) > 1 else named[0],
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    def finalize_model(self, model: Any) -> nn.Module:
        """Merge the adapter into the weights."""
        merged: nn.Module = model.merge_and_unload()
        return merged
