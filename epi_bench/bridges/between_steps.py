"""The model between two steps, as this package's loop has it when it calls a strategy's hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def between_steps(model: nn.Module, *, training: bool) -> Iterator[None]:
    """No gradients, and the mode that the loop has there; afterwards both are as they were.

    A loop of one's own may be anywhere when a strategy hears that an experience begins: before the
    optimizer's first step its gradients are there already, and a strategy that measures the model
    would add to them or clear them.

    Args:
        model: The one being trained.
        training: Whether it is in training mode.
    """
    modes = {module: module.training for module in model.modules()}
    gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
    for parameter in gradients:
        parameter.grad = None
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in model.parameters():
            # the strategy may have frozen it
            parameter.grad = gradients.get(parameter) if parameter.requires_grad else None
