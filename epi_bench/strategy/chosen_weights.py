"""Strategies that say themselves which weights are held still, between the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epi_bench.strategy.hooks import Step
from epi_bench.strategy.isolation_strategy import IsolationStrategy

if TYPE_CHECKING:
    from torch import Tensor


class ChosenWeights(IsolationStrategy):
    """Base of the mask strategies that measure no importance while they train.

    A subclass calls :meth:`hold` whenever other weights are to be held, as a rule where an
    experience begins. Before the first call nothing is held.

    Example:
        .. code-block:: python

            class FrozenVectors(ChosenWeights):
                def begin_experience(self, experience):
                    trained = self.isolation.parameters.items()
                    self.hold({n: torch.ones_like(p).bool() for n, p in trained if p.dim() < 2})
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1, 0, importance="factored")

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these weights at their present values, and no others.

        Args:
            masks: For some of ``isolation.parameters`` booleans of the parameter's shape.
        """
        self.isolation.protect(masks)
        self._refreshes += 1

    def gradients_ready(self, step: Step) -> None:
        """Nothing: no importance is measured."""

    def parameters_updated(self, step: Step) -> None:
        """Undo what the optimizer did to the weights that are held."""
        if self._refreshes:
            self.isolation.restore()
