"""Optimizer steps of which a part is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from epi_bench.model.stochastic_rounding import HALF_PRECISION, round_stochastically


class PartialStep:
    """Lets an optimizer step move some weights and leaves the others bit-identical.

    The optimizer steps all weights; those that were not to move then get back the value that they
    had before. A zero gradient would not do: momentum, adaptive moments and weight decay move a
    weight all the same. For strategies that choose anew at every step; what stays for longer is
    held cheaper by :class:`epi_bench.Isolation`.

    Between :meth:`take` and :meth:`undo` it holds a copy of the weights, otherwise nothing.

    Args:
        parameters: By name.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> step = PartialStep({"weight": weight})
        >>> step.take()
        >>> _ = weight.data.add_(10.0)  # what an optimizer does
        >>> step.undo({"weight": torch.tensor([True, False])})
        >>> weight.tolist()
        [11.0, 2.0]
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        """Remember the weights as they are; call before the optimizer's step."""
        self._before = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def undo(self, moves: Mapping[str, Tensor]) -> None:
        """Give back what was not to move; call right after the optimizer's step.

        Args:
            moves: For a parameter's name which of its weights move: booleans of its shape, or of
                one that broadcasts to it. A parameter that is left out moves as a whole.
        """
        for name, mask in moves.items():
            parameter = self.parameters[name]
            parameter.copy_(torch.where(mask, parameter, self._before[name]))
        self._before = {}

    @torch.no_grad()
    def change(self, of: Callable[[str, Tensor], Tensor], generator: torch.Generator) -> None:
        """Make another step of the optimizer's; call right after it.

        Args:
            of: Gives for a parameter's name and what it was moved by, in float32, what it is to be
                moved by.
            generator: On the CPU; its seed decides how weights of half precision are rounded, which
                is at random, since a step is often smaller than what they can tell apart.
        """
        rounding: dict[torch.device, torch.Generator] = {}
        for name, parameter in self.parameters.items():
            before = self._before[name].float()
            moved = before + of(name, parameter.float() - before)
            if parameter.dtype in HALF_PRECISION:
                device = parameter.device
                if device not in rounding:
                    seed = generator.initial_seed()
                    rounding[device] = torch.Generator(device).manual_seed(seed)
                round_stochastically(parameter, moved, rounding[device])
            else:
                parameter.copy_(moved)
        self._before = {}
