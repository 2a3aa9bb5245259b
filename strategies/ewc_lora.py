"""EWC on merged low-rank adapters: the update is held where the weights mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from epi_bench import (
    Experience,
    FisherInformation,
    LowRankStrategy,
    TradeOff,
    UserError,
    fisher_samples,
    register_strategy,
)

if TYPE_CHECKING:
    from epi_bench import TrainingSpec


@register_strategy("ewc_lora")
class EWCLoRA(LowRankStrategy):
    """An adapter for each experience, with EWC's penalty on what it adds to the weights.

    Each experience trains an adapter of its own that is merged at its end, as in ``inc_lora``, with

        ``loss + strength / 2 * sum F (alpha / rank B A)^2``

    (arXiv 2602.17559). ``F`` is the sum of the finished experiences' Fisher information **in the
    space of the full weights**, measured at the merged weights: holding ``A`` and ``B`` by a Fisher
    of their own is reported to keep less. The anchor is an update of zero, so none is stored. The
    Fisher is the true one by default: labels are drawn from the model.

    The penalty forms ``B A`` of a layer at a time, and once more in the backward pass.

    Args:
        rank: Rank of each experience's update, at least 1.
        alpha: Scale of the update; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: As for ``lora``.
        learning_rate_factor: The run's learning rate is multiplied by it.
        strength: Weight of the penalty, at least 0 (lambda); 0 is ``inc_lora``.
        decay: Forgetting of old Fisher information, in [0, 1].
        fisher_samples: Training examples that the Fisher is estimated on, at least 1.
        fisher: How it is kept, for each adapted weight: ``diagonal`` in 4 bytes, ``diagonal_bf16``
            in 2, ``factored`` in next to none; see ``ewc``.
        labels: ``model``: drawn from what the model expects; ``data``: the training examples' own.
    """

    needs = ("boundaries",)
    bytes_per_parameter = "{'diagonal': 4, 'diagonal_bf16': 2, 'factored': 8 / width}[fisher]"
    trade_off = TradeOff("strength", (1e2, 1e3, 1e4, 1e5, 1e6))
    evidence = (
        "Its authors report 87.9 % average accuracy where a Fisher of the factors gives 86.4 % and "
        "none 83.0 % (ten tasks of images)."
    )

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
        strength: float = 1e4,
        decay: float = 1.0,
        fisher_samples: int = 64,
        fisher: Literal["diagonal", "diagonal_bf16", "factored"] = "diagonal",
        labels: Literal["model", "data"] = "model",
    ) -> None:
        super().__init__(rank, alpha, dropout, target_modules, learning_rate_factor)
        if strength < 0:
            raise UserError(f"ewc_lora: strength={strength} must be at least 0")
        if not 0 <= decay <= 1:
            raise UserError(f"ewc_lora: decay={decay} must lie in [0, 1]")
        if fisher_samples < 1:
            raise UserError(f"ewc_lora: fisher_samples={fisher_samples} must be at least 1")
        self.strength = strength
        self.decay = decay
        self.fisher_samples = fisher_samples
        self.fisher = fisher
        self.labels = labels
        self._fisher: FisherInformation | None = None

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A warning where nothing is held."""
        return [] if self.strength else ["ewc_lora with strength=0 trains as inc_lora does"]

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The penalty on the update, or ``None`` before the first experience has ended."""
        if self._fisher is None or self.strength == 0:
            return None
        pulls = [
            checkpoint(self._pull, name, layer, use_reentrant=False, preserve_rng_state=False)
            for name, layer in self.adapted_layers.items()
        ]
        return self.strength / 2 * torch.stack(pulls).sum()

    def end_experience(self, experience: Experience) -> None:
        """Merge the adapter, begin another, and measure what the merged weights matter."""
        self.merge_and_restart(f"adapter after experience {experience.index}")
        if self.strength == 0:
            return
        layers = self.adapted_layers.items()
        weights = {name: layer.get_base_layer().weight for name, layer in layers}
        drawn = fisher_samples(self.context, experience, self.fisher_samples)
        for weight in weights.values():
            weight.requires_grad_(True)
        try:
            found = FisherInformation.measured(
                self.context, weights, drawn, self.fisher, labels=self.labels
            )
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
        before = self._fisher
        self._fisher = found if before is None else before.decayed_and(self.decay, found)

    def state_dict(self) -> dict[str, Tensor]:
        """The Fisher information."""
        return {} if self._fisher is None else self._fisher.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        device = self.context.device
        self._fisher = FisherInformation.from_state(state, device) if state else None

    def _pull(self, name: str, layer: Any) -> Tensor:
        if self._fisher is None:
            raise RuntimeError("no experience has ended")
        (adapter,) = layer.active_adapters
        return self._fisher.pull(name, layer.get_delta_weight(adapter), None)
