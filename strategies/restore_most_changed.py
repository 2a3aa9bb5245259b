"""Give the weights back that fine-tuning changed most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    FinishedWeights,
    TradeOff,
    UserError,
    adapted_layers,
    block_matrices,
    block_number,
    register_strategy,
    require_blocks,
    require_plain_adapter,
    scaled_updates,
    state_part,
    top_share,
    trained_parameters,
    updated_weights,
)


@register_strategy("restore_most_changed")
class RestoreMostChanged(FinishedWeights):
    """Full fine-tuning; then the most changed share of the weights goes back to the base model.

    ``change = |theta - theta_0| / (|theta_0| + 1e-8)``; the largest ``share`` over all weight
    matrices of the blocks together (arXiv 2509.16596). The paper finds that a fifth may help much
    and two fifths ruin the model: choose the share on validation data. Costs no training, and a
    copy of the base model.

    Of a model with a low-rank adapter the weights that it would be merged into are compared, which
    needs no copy.

    Args:
        share: Of the weights of the blocks' matrices, in [0, 1]; 0 is full fine-tuning.
        measure: ``relative`` to the base model's weight, as in the paper, or ``absolute``.
    """

    needs = ("old weights",)
    adapter_is_whole = False  # single weights are no low-rank update
    bytes_per_parameter = "4"
    trade_off = TradeOff("share", (0.01, 0.03, 0.05, 0.1, 0.2, 0.4))
    evidence = (
        "Reported to help question answering up to a fifth, and to ruin some models from two "
        "fifths on: a cliff, so sweep the share."
    )

    def __init__(
        self, share: float = 0.05, measure: Literal["relative", "absolute"] = "relative"
    ) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"restore_most_changed: share={share} must lie in [0, 1]")
        self.share = share
        self.measure = measure
        self._base: dict[str, Tensor] = {}

    def check_model(self, model: nn.Module) -> None:
        """There must be numbered blocks."""
        require_blocks(self.name, model)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep the base model's weights."""
        require_plain_adapter(self.name, model)
        if self.share > 0 and not adapted_layers(model):
            chosen = block_matrices(trained_parameters(model))
            self._base = {name: p.detach().clone() for name, p in chosen.items()}
        return model

    @torch.no_grad()
    def finished(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The weights of the blocks, the most changed ones as they were."""
        if self.share == 0:
            return {}
        now: Mapping[str, Tensor] = dict(model.named_parameters())
        before: Mapping[str, Tensor] = self._base
        without: dict[str, Tensor] = {}
        if adapted_layers(model):
            before, now = now, updated_weights(model)
            without = scaled_updates(model, 0.0)
            before = {name: before[name] for name in now if block_number(name) is not None}
        changes = {}
        for name, base in before.items():
            change = (now[name].float() - base.float()).abs()
            if self.measure == "relative":
                change /= base.float().abs() + 1e-8
            changes[name] = change
        restored = {
            name: torch.where(mask, before[name].to(now[name].dtype), now[name])
            for name, mask in top_share(changes, self.share).items()
        }
        return {**now, **restored, **without} if without else restored

    def state_dict(self) -> dict[str, Tensor]:
        """The base model's weights."""
        return {f"base.{name}": tensor for name, tensor in self._base.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        self._base = {name: t.clone() for name, t in state_part(state, "base.").items()}
