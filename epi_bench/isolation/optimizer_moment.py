"""Importance that Adam keeps anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.importance import Importance
from epi_bench.isolation.sharding import local


class OptimizerMoment(Importance):
    """``optimizer``: Adam's own second moment ``exp_avg_sq``. 0 bytes a parameter.

    It is the same average with three differences: the decay is Adam's ``beta2``, not ``beta``; the
    gradients in it are those after clipping; and a fresh optimizer forgets it. A parameter that
    the optimizer has not stepped yet has importance zero.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], beta: float) -> None:
        super().__init__(parameters, beta)
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Read from this optimizer from now on.

        Raises:
            UserError: If it is known to keep no ``exp_avg_sq``.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        if not has_second_moment(optimizer):
            raise no_second_moment(type(optimizer).__name__)
        self._optimizer = optimizer

    def _take(self, gradients: Mapping[str, Tensor]) -> None:
        """The optimizer does it."""

    def observe(self, finite: bool | None = None) -> bool:
        """Nothing to do: the optimizer takes in the gradients that it is given."""
        return True if finite is None else finite

    @property
    def values(self) -> Mapping[str, Tensor]:
        if self._optimizer is None:
            raise UserError(
                "importance='optimizer' reads the optimizer's second moment: give the optimizer "
                "with attach_optimizer() before the mask moves"
            )
        states = [self._optimizer.state.get(p, {}) for p in self._parameters.values()]
        if any(states) and not any("exp_avg_sq" in state for state in states):
            raise no_second_moment(type(self._optimizer).__name__)
        return super().values

    def _value(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        state = self._optimizer.state.get(parameter, {}) if self._optimizer else {}
        if "exp_avg_sq" not in state:
            return torch.zeros_like(local(parameter.detach()), dtype=torch.float32)
        return local(state["exp_avg_sq"]).float()

    def _tensors(self) -> dict[str, Tensor]:
        return {}


def has_second_moment(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer may keep ``exp_avg_sq``; one of another library gets the benefit."""
    if any("exp_avg_sq" in state for state in optimizer.state.values()):
        return True
    if type(optimizer).__module__.startswith("torch.optim"):
        adam = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.SparseAdam)
        return isinstance(optimizer, (*adam, torch.optim.AdamW))
    return True


def no_second_moment(optimizer: str) -> UserError:
    """The error for an optimizer without ``exp_avg_sq``."""
    return UserError(
        f"importance='optimizer' reads Adam's second moment, which {optimizer} does not keep: "
        "use importance ema, ema_bf16 or factored, or an Adam optimizer"
    )
