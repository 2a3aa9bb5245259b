"""Importance that Adam keeps anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.importance import Importance
from epi_bench.isolation.sharding import local
from epi_bench.model.stochastic_rounding import HALF_PRECISION

SMALLEST_DECAY = 2**-8
"""Share of itself by which a bfloat16 number must shrink to become another for certain."""


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
        states = [state for _, state in self._states()]
        if any(state and "exp_avg_sq" not in state for state in states):
            raise no_second_moment(type(self._optimizer).__name__)
        moments = {p: state["exp_avg_sq"].dtype for p, state in self._states() if state}
        refuse_moments_that_stand_still(self._optimizer, moments)
        return super().values

    def _states(self) -> list[tuple[nn.Parameter, Mapping[str, Tensor]]]:
        """What the optimizer keeps of each parameter; empty before it has stepped it."""
        kept = self._optimizer.state if self._optimizer else {}
        return [(parameter, kept.get(parameter, {})) for parameter in self._parameters.values()]

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
    if type(optimizer).__name__ == "Adafactor":
        return False  # that of transformers keeps it for vectors only
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


def foreseen_moments(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> dict[nn.Parameter, torch.dtype]:
    """In which type an optimizer of torch will keep the second moment of each parameter.

    Other libraries have rules of their own: what their optimizers keep is seen after a step.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    if not type(optimizer).__module__.startswith("torch.optim"):
        return {}
    return {parameter: parameter.dtype for parameter in parameters}


def refuse_moments_that_stand_still(
    optimizer: torch.optim.Optimizer, moments: Mapping[nn.Parameter, torch.dtype]
) -> None:
    """A moment of half precision cannot shrink by ``1 - beta2`` and keeps its largest value.

    Args:
        optimizer: Tells ``beta2`` of each parameter.
        moments: Type of the second moment of each parameter.

    Raises:
        UserError: If one of them would never decay.
    """
    for group in optimizer.param_groups:
        beta2 = group["betas"][1] if "betas" in group else 0.0
        if 1 - float(beta2) >= SMALLEST_DECAY:
            continue
        types = {moments.get(parameter) for parameter in group["params"]}
        for half in HALF_PRECISION:
            if half in types:
                name = str(half).removeprefix("torch.")
                raise UserError(
                    f"importance='optimizer' reads Adam's second moment, which is kept in {name} "
                    f"as the weights are: with beta2={float(beta2)} it never shrinks, so nothing "
                    "would be forgotten; use importance ema, ema_bf16 or factored, or train "
                    "float32 weights with autocast"
                )
