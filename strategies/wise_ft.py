"""WiSE-FT: between the base model and the fine-tuned one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    FinishedWeights,
    TradeOff,
    UserError,
    adapted_layers,
    register_strategy,
    require_plain_adapter,
    scaled_updates,
    state_part,
    trained_parameters,
)


@register_strategy("wise_ft")
class WiseFT(FinishedWeights):
    """Full fine-tuning, then a weighted average of the weights before and after.

    ``theta = (1 - alpha) theta_0 + alpha theta_ft`` (Wortsman et al. 2021, arXiv 2109.01903); for
    language models the best front of many methods between what is learned and what is kept (Lin
    et al. 2024, arXiv 2309.06256). Costs no training, and a copy of the base model.

    A low-rank adapter on the model is scaled by ``alpha``, which is the same and costs no copy.

    Args:
        alpha: Share of the fine-tuned weights, in [0, 1]; 1 is full fine-tuning.
        scope: ``final``: between the base model and the end of the stream, and training goes on
            from the fine-tuned weights; ``each``: between the beginning and the end of each
            experience, and training goes on from the average.
    """

    needs = ("old weights",)
    bytes_per_parameter = "4"
    trade_off = TradeOff("alpha", (0.9, 0.7, 0.5, 0.3, 0.1))
    evidence = (
        "Reported as the best of many methods where alignment is learned and abilities are kept "
        "(arXiv 2309.06256)."
    )

    def __init__(self, alpha: float = 0.5, scope: Literal["final", "each"] = "final") -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"wise_ft: alpha={alpha} must lie in [0, 1]")
        self.alpha = alpha
        self.scope = scope
        if scope == "each":
            self.refuses_adapter = (
                "with scope=each averages the adapters of two experiences, which is no adapter of "
                "that rank"
            )
        self._start: dict[str, Tensor] = {}

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep the base model's weights."""
        require_plain_adapter(self.name, model)
        self._keep(model)
        return model

    def finished(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The average with the base model."""
        if self.scope == "each":
            return {}
        if self.alpha < 1 and adapted_layers(model):
            return scaled_updates(model, self.alpha)
        return self._average(model)

    @torch.no_grad()
    def end_experience(self, experience: Experience) -> None:
        """Average with where the experience began, if that is asked for."""
        if self.scope == "each":
            parameters = dict(self.context.model.named_parameters())
            for name, tensor in self._average(self.context.model).items():
                parameters[name].copy_(tensor)
            self._keep(self.context.model)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that are averaged with."""
        return {f"start.{name}": tensor for name, tensor in self._start.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        self._start = {name: t.clone() for name, t in state_part(state, "start.").items()}

    def _keep(self, model: nn.Module) -> None:
        if self.alpha < 1 and not adapted_layers(model):
            self._start = {n: p.detach().clone() for n, p in trained_parameters(model).items()}

    def _average(self, model: nn.Module) -> dict[str, Tensor]:
        parameters = dict(model.named_parameters())
        return {
            name: torch.lerp(start.float(), parameters[name].detach().float(), self.alpha)
            for name, start in self._start.items()
        }
