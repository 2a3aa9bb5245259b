"""Importance of parameters: an exponential moving average of squared gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError


class SquaredGradientAverage:
    """``I <- beta I + (1 - beta) g^2`` in single precision: 4 bytes a parameter.

    The average starts at zero and is not corrected for it: a common factor does not change which
    weights are the most important (EPI, arXiv 2604.14010).

    Args:
        parameters: By name; each is measured.
        beta: Decay, in [0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], beta: float) -> None:
        if not 0 <= beta < 1:
            raise UserError(f"beta={beta} must lie in [0, 1)")
        self.beta = beta
        self._parameters = parameters
        self.values: dict[str, Tensor] = {
            name: torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
            for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def observe(self) -> bool:
        """Take in the present gradients; a parameter without one counts as having gradient zero.

        Returns:
            Whether they were finite; otherwise nothing has been changed.
        """
        measured = {
            name: parameter.grad.float()
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        gradients = list(measured.values())
        if gradients:
            norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
            if not bool(torch.isfinite(norms).all()):
                return False
        torch._foreach_mul_(list(self.values.values()), self.beta)
        if gradients:
            averages = [self.values[name] for name in measured]
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - self.beta)
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the averages."""
        for name, average in self.values.items():
            average.copy_(state[name])
