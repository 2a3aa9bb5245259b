"""The further weights that a schedule-free optimizer keeps beside those of the model.

Schedule-free training (arXiv 2405.15682) evaluates gradients at ``y``, steps ``z`` and is judged at
their average ``x``. The model holds ``y`` while it is trained and ``x`` while it is evaluated or
saved, computed from ``y`` and ``z``. A weight that is held in the model alone would still move in
``x``, because ``z`` moves.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SEQUENCES = ("x", "y", "z")
"""Names of the sequences in an optimizer's state; which of them it keeps depends on the class."""


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer keeps further weights: those of ``schedulefree`` and those like them."""
    kind = f"{type(optimizer).__module__}.{type(optimizer).__name__}".lower().replace("_", "")
    return "schedulefree" in kind or any("train_mode" in g for g in optimizer.param_groups)


def further_weights(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[dict[str, Tensor]]:
    """For each sequence that a schedule-free optimizer keeps, its tensors by parameter.

    Args:
        optimizer: A schedule-free one.
        parameters: By name; those that it has not stepped yet have none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for sequence in SEQUENCES:
            tensor = state.get(sequence)
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                found.setdefault(sequence, {})[name] = tensor
    return list(found.values())
