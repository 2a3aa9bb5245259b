"""An average of the weights over the steps of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    FinishedWeights,
    Step,
    TradeOff,
    UserError,
    register_strategy,
    state_part,
    trained_parameters,
)


@register_strategy("ema")
class ExponentialMovingAverage(FinishedWeights):
    """Full fine-tuning; the model that is scored and saved is a running mean of its weights.

    After each step ``mean <- decay mean + (1 - decay) theta`` (Polyak and Juditsky 1992). A mean
    lies between where the training has been and where it is, so it keeps more of what was there
    before. Costs 4 bytes a parameter.

    Args:
        decay: In [0, 1); 0 is full fine-tuning, and ``1 / (1 - decay)`` steps are about what the
            mean remembers.
        start: ``first_step``: the mean of the steps alone, the bias of a short average corrected:
            ``mean_n = mean_(n-1) + (1 - decay) / (1 - decay^n) (theta_n - mean_(n-1))``;
            ``base``: the base model is the mean's first value, which draws short runs back to it.
    """

    bytes_per_parameter = "4"
    trade_off = TradeOff("decay", (0.9, 0.97, 0.99, 0.995, 0.999))

    def __init__(
        self, decay: float = 0.99, start: Literal["first_step", "base"] = "first_step"
    ) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema: decay={decay} must lie in [0, 1)")
        self.decay = decay
        self.start = start
        self._steps = 0
        self._mean: dict[str, Tensor] = {}

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Begin the mean with the base model."""
        self._mean = {
            name: p.detach().to(torch.float32, copy=True)
            for name, p in trained_parameters(model).items()
        }
        return model

    @torch.no_grad()
    def parameters_updated(self, step: Step) -> None:
        """Take the weights into the mean."""
        self._steps += 1
        share = 1 - self.decay
        if self.start == "first_step":
            share /= 1 - self.decay**self._steps
        parameters = dict(step.model.named_parameters())
        for name, mean in self._mean.items():
            mean.lerp_(parameters[name].detach().float(), share)

    def finished(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The mean."""
        return self._mean if self._steps else {}

    def state_dict(self) -> dict[str, Tensor]:
        """The mean, and of how many steps it is."""
        steps = torch.tensor(self._steps)
        return {"steps": steps} | {f"mean.{name}": t for name, t in self._mean.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._steps = int(state["steps"])
        self._mean = {name: t.clone() for name, t in state_part(state, "mean.").items()}
