"""Optimizer steps of which a part is undone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
