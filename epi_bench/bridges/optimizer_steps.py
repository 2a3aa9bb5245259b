"""What may come between a call of ``optimizer.step`` and gradients that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from epi_bench.errors import UserError

BY_HAND = "call Protection's gradients_ready() and parameters_updated() around its step"
"""The remedy for an optimizer without usable hooks."""


def with_step_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer whose step hooks fire once for each update of the weights.

    That is the given one, the one that accelerate wrapped, or the base of one with two phases
    (SAM's ``first_step`` and ``second_step``), whose own ``step`` may never be called.

    Raises:
        UserError: If there is none.
    """
    inner = bare(optimizer)
    if has_two_phases(inner):
        bases = [v for v in vars(inner).values() if _has_hooks(v)]
        if len(bases) != 1:
            raise UserError(
                f"{type(inner).__name__} updates weights by first_step() and second_step(), which "
                "have no hooks, and no one optimizer that it wraps was found: " + BY_HAND
            )
        return bases[0]
    # A wrapper that subclasses Optimizer without calling its constructor has the methods, but
    # neither the dictionaries of hooks nor a step() that looks at them.
    if not _has_hooks(inner):
        raise UserError(
            f"{type(inner).__name__} has no step hooks (it does not call torch.optim.Optimizer's "
            f"constructor): {BY_HAND}; if it moves no weights itself, protect the optimizer that "
            "it wraps"
        )
    return inner


def bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer without what accelerate put around it."""
    while type(optimizer).__module__.split(".")[0] == "accelerate":
        if not hasattr(optimizer, "optimizer"):
            break
        optimizer = optimizer.optimizer
    return optimizer


def has_two_phases(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer first moves weights aside and then updates them: SAM and its kin."""
    phases = ("first_step", "second_step")
    return all(callable(getattr(optimizer, phase, None)) for phase in phases)


def _has_hooks(optimizer: object) -> bool:
    return hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(
        getattr(type(optimizer), "step", None), "hooked"
    )


class FirstStepHook:
    """Calls something before each ``first_step`` of an optimizer with two phases.

    Args:
        optimizer: Has the method.
        call: What to call.
    """

    def __init__(self, optimizer: Any, call: Callable[[], None]) -> None:
        self._optimizer = optimizer
        first_step = optimizer.first_step

        def watched(*args: Any, **kwargs: Any) -> Any:
            call()
            return first_step(*args, **kwargs)

        optimizer.first_step = watched

    def remove(self) -> None:
        """Give the optimizer its method back."""
        del self._optimizer.first_step


@torch.no_grad()
def unscale_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Divide the gradients by ``GradScaler``'s factor if the optimizer was to do it itself.

    ``GradScaler`` unscales before it calls ``step()``, except for fused optimizers: those get
    scaled gradients with the attributes ``grad_scale`` and ``found_inf``, also for a step that
    they then skip. The factor is a power of two unless set otherwise, so dividing here gives the
    bits that the fused step would have computed.

    Returns:
        Whether the step will be taken.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None and float(found_inf) > 0:
        return False
    scale = getattr(optimizer, "grad_scale", None)
    if isinstance(scale, torch.Tensor):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.div_(scale.to(parameter.grad.device))
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    return True


def observe_in_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], observe: Callable[[], None]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Arguments of ``step`` whose closure calls ``observe`` once, after its first evaluation.

    Before that evaluation the gradients are those of the step before, or none.

    Args:
        args: Of ``step``, the optimizer first.
        kwargs: Of ``step``.
        observe: What to call.

    Returns:
        ``None`` if there is no closure.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):
        return None
    pending = True

    def evaluate() -> Any:
        nonlocal pending
        loss = closure()
        if pending:
            pending = False
            observe()
        return loss

    if len(args) > 1:
        return (args[0], evaluate, *args[2:]), kwargs
    return args, {**kwargs, "closure": evaluate}
