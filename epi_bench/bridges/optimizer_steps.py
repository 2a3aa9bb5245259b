"""What may come between a call of ``optimizer.step`` and gradients that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from epi_bench.errors import UserError


def with_step_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer whose step hooks fire: the given one, or the one that accelerate wrapped.

    Raises:
        UserError: If its hooks would never fire.
    """
    inner = optimizer
    while type(inner).__module__.split(".")[0] == "accelerate" and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    # A wrapper that subclasses Optimizer without calling its constructor has the methods, but
    # neither the dictionaries of hooks nor a step() that looks at them.
    usable = hasattr(inner, "_optimizer_step_post_hooks") and hasattr(type(inner).step, "hooked")
    if not usable:
        raise UserError(
            f"{type(inner).__name__} has no step hooks (it does not call torch.optim.Optimizer's "
            "constructor): protect the optimizer that it wraps, or call Protection's "
            "gradients_ready() and parameters_updated() around its step"
        )
    return inner


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
