"""O-LoRA: each experience's update keeps out of the directions that earlier ones used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    LowRankStrategy,
    TradeOff,
    UserError,
    register_strategy,
    update_factors,
)


@register_strategy("o_lora")
class OrthogonalLoRA(LowRankStrategy):
    """An adapter for each experience, orthogonal to those before.

    Orthogonal low-rank adaptation (Wang et al. 2023, arXiv 2310.14152).

    Each experience trains an adapter of its own, as in ``inc_lora``, with

        ``loss + orthogonality sum_layers sum_(i < k) |A_i A_k^T| + shrinkage (|A_k| + |B_k|)``

    where ``|.|`` of a product is the sum of its absolute entries (the authors' code; ``squares``
    sums squares, as their paper writes it) and of a factor its Euclidean norm. Rows of ``A`` are
    the input directions that an update reads, so updates with orthogonal rows change other inputs.
    Keeps ``A`` of every finished experience.

    Args:
        rank: Rank of each experience's update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: As for ``lora``; linear layers only.
        learning_rate_factor: The run's learning rate is multiplied by it.
        orthogonality: Weight of the first term, at least 0 (lambda_1). It is a sum over layers, so
            a larger model wants a smaller one.
        shrinkage: Weight of the second term, at least 0 (lambda_2).
        norm: ``absolute`` or ``squares``.
    """

    needs = ("boundaries",)
    bytes_per_parameter = "4 * rank * experiences / width"
    trade_off = TradeOff("orthogonality", (0.05, 0.1, 0.5, 1.0, 5.0))

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
        orthogonality: float = 0.5,
        shrinkage: float = 0.0,
        norm: Literal["absolute", "squares"] = "absolute",
    ) -> None:
        super().__init__(rank, alpha, dropout, target_modules, learning_rate_factor)
        for option, value in (("orthogonality", orthogonality), ("shrinkage", shrinkage)):
            if value < 0:
                raise UserError(f"o_lora: {option}={value} must be at least 0")
        self.orthogonality = orthogonality
        self.shrinkage = shrinkage
        self.norm = norm
        self._past: dict[str, Tensor] = {}

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; every adapted layer must have rows of input directions."""
        self.refuse_embeddings(model, "reads no input directions")
        return super().prepare_model(model)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Both terms; ``None`` where there is nothing to keep out of and nothing to shrink."""
        terms = []
        for name, layer in self.adapted_layers.items():
            down, up = update_factors(layer)
            if self.orthogonality > 0 and name in self._past:
                overlap = self._past[name] @ down.T
                size = overlap.abs() if self.norm == "absolute" else overlap.square()
                terms.append(self.orthogonality * size.sum())
            if self.shrinkage > 0:
                terms.append(self.shrinkage * (down.norm() + up.norm()))
        return torch.stack(terms).sum() if terms else None

    def end_experience(self, experience: Experience) -> None:
        """Keep the input directions, merge the adapter and begin another."""
        for name, layer in self.adapted_layers.items():
            rows = update_factors(layer)[0].detach().clone()
            before = self._past.get(name)
            self._past[name] = rows if before is None else torch.cat([before, rows])
        self.merge_and_restart(f"adapter after experience {experience.index}")

    def state_dict(self) -> dict[str, Tensor]:
        """The input directions of finished experiences."""
        return dict(self._past)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        self._past = {name: tensor.clone() for name, tensor in state.items()}
