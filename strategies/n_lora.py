"""N-LoRA: sparse updates collide less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from epi_bench import Experience, LowRankStrategy, TradeOff, UserError, register_strategy


@register_strategy("n_lora")
class NonCollidingLoRA(LowRankStrategy):
    """An adapter for each experience, sparse so that their updates seldom meet.

    Non-collision low-rank adaptation (Yang et al. 2025, arXiv 2410.10179).

    Each experience trains an adapter of its own, as in ``inc_lora``, with

        ``loss + sparsity sum_layers sum |B A|``,

    so that the updates of two experiences seldom change the same weight. The sum runs over the
    whole update, as the paper writes it (its code sums ``A B``, which is another matrix). Adam
    makes entries small rather than zero.

    Args:
        rank: Rank of each experience's update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: As for ``lora``.
        learning_rate_factor: The run's learning rate is multiplied by it.
        sparsity: Weight of the term, at least 0 (lambda). It is a sum over all weights, so a larger
            model wants a smaller one.
    """

    needs = ("boundaries",)
    adapter_is_whole = False  # earlier ones are in the weights
    bytes_per_parameter = "0"
    trade_off = TradeOff("sparsity", (1e-5, 1e-4, 1e-3, 1e-2))
    evidence = "Its authors report more than ``o_lora`` on the same tasks."

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
        sparsity: float = 1e-3,
    ) -> None:
        super().__init__(rank, alpha, dropout, target_modules, learning_rate_factor)
        if sparsity < 0:
            raise UserError(f"n_lora: sparsity={sparsity} must be at least 0")
        self.sparsity = sparsity

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The term, or ``None`` if it has no weight."""
        if self.sparsity == 0:
            return None
        sizes = []
        for layer in self.adapted_layers.values():
            (adapter,) = layer.active_adapters
            sizes.append(layer.get_delta_weight(adapter).abs().sum())
        return self.sparsity * torch.stack(sizes).sum()

    def end_experience(self, experience: Experience) -> None:
        """Merge the adapter and begin another."""
        self.merge_and_restart(f"adapter after experience {experience.index}")
