"""Graded protection: each weight is drawn back to where it was with a stiffness of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench.isolation.saved_state import state_part
from epi_bench.model.stochastic_rounding import HALF_PRECISION, round_stochastically
from epi_bench.strategy.generator_state import generator_state, set_generator_state


class ElasticAnchor:
    """The proximal step of a quadratic penalty, applied after the optimizer's.

    ``theta <- argmin_x 1/2 |x - theta|^2 + rate/2 sum_i k_i (x_i - theta*_i)^2``, that is
    ``theta <- theta* + (theta - theta*) / (1 + rate k)`` with anchor ``theta*`` and stiffness
    ``k``. It is stable for every stiffness (0 leaves a weight free, infinity freezes it), and an
    adaptive optimizer does not rescale it, as it does with a penalty that is part of the loss
    (the same reason for which AdamW decouples weight decay, arXiv 1711.05101; proximal steps:
    Parikh and Boyd 2014). Until :meth:`fix` is called nothing is drawn anywhere.

    Weights of bfloat16 are rounded stochastically, because a pull is often smaller than what they
    can tell apart.

    Costs 8 bytes a parameter.

    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> anchor = ElasticAnchor({"weight": weight})
    >>> anchor.fix({"weight": torch.tensor([3.0])})  # where it is now, with stiffness 3
    >>> _ = weight.data.add_(8.0)
    >>> anchor.draw(rate=1.0)
    >>> weight.item()  # 1 + 8 / (1 + 1 * 3)
    3.0

    Args:
        parameters: By name.
        seed: Of the stochastic rounding.

    Attributes:
        parameters: As they were given.
        anchor: Where each parameter is drawn to; empty before :meth:`fix`.
        stiffness: Of each parameter, as :meth:`fix` was given it; empty before.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], seed: int = 0) -> None:
        self.parameters = parameters
        self._seed = seed
        self._generator: torch.Generator | None = None
        self.anchor: dict[str, Tensor] = {}
        self.stiffness: dict[str, Tensor] = {}

    @torch.no_grad()
    def fix(self, stiffness: Mapping[str, Tensor]) -> None:
        """Anchor all weights where they are now.

        Args:
            stiffness: For each parameter a tensor of its shape, not negative; kept, not copied.
        """
        self.stiffness = dict(stiffness)
        self.anchor = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def draw(self, rate: float, metric: Mapping[str, Tensor] | None = None) -> None:
        """Draw the weights back; call right after ``optimizer.step()``.

        Args:
            rate: Size of the step, as a rule the optimizer's learning rate.
            metric: What an adaptive optimizer divides a weight's gradient by, for some parameters a
                tensor of its shape; the stiffness is divided by it too, so that loss and pull are
                weighed against each other as they would be without adaptation.
        """
        metric = metric or {}
        for name, anchor in self.anchor.items():
            scaled = rate * self.stiffness[name]
            if name in metric:
                scaled = scaled / metric[name]
            weight = torch.where(torch.isinf(scaled), 1.0, scaled / (1 + scaled))
            parameter = self.parameters[name]
            if parameter.dtype in HALF_PRECISION:
                drawn = parameter.float().lerp_(anchor.float(), weight)
                round_stochastically(parameter, drawn, self._generator_on(parameter.device))
            else:
                parameter.lerp_(anchor, weight.to(anchor.dtype))

    def _generator_on(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device).manual_seed(self._seed)
        return self._generator

    @torch.no_grad()
    def energy(self) -> float:
        """``1/2 sum_i k_i (theta_i - theta*_i)^2`` of the weights as they are; 0 before a fix."""
        total = 0.0
        for name, anchor in self.anchor.items():
            way = self.parameters[name].float() - anchor.float()
            total += float((self.stiffness[name] * way.square()).double().sum())
        return total / 2

    def bytes(self) -> int:
        """Bytes held."""
        held = [*self.anchor.values(), *self.stiffness.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def state_dict(self) -> dict[str, Tensor]:
        """Anchors, stiffness, and where the rounding of bfloat16 weights stands."""
        state = {f"anchor.{name}": tensor for name, tensor in self.anchor.items()}
        state |= {f"stiffness.{name}": tensor for name, tensor in self.stiffness.items()}
        if self._generator is not None:
            state["rounding"] = generator_state(self._generator)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it, each tensor on its parameter's device."""
        self.anchor = self._beside_parameters(state_part(state, "anchor."))
        self.stiffness = self._beside_parameters(state_part(state, "stiffness."))
        if "rounding" in state:
            device = next(self.parameters[name].device for name in self.anchor)
            set_generator_state(self._generator_on(device), state["rounding"])

    def _beside_parameters(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the tensors where the parameters of the same names are."""
        return {
            name: tensor.to(self.parameters[name].device, copy=True)
            for name, tensor in tensors.items()
        }
