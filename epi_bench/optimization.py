"""Optimizers and learning-rate schedules, built from the specification."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from epi_bench.config import TrainingSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


def build_optimizer(
    parameters: Iterable[nn.Parameter], spec: TrainingSpec, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of one experience.

    Vectors (biases, normalisation weights) are not decayed, as is usual for transformers.

    Args:
        parameters: What is trained.
        spec: Kind of optimizer and weight decay.
        learning_rate: Peak of the schedule.
    """
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if parameter.ndim >= 2],
            "weight_decay": spec.weight_decay,
        },
        {
            "params": [parameter for parameter in trained if parameter.ndim < 2],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    if spec.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def learning_rate_share(step: int, steps: int, spec: TrainingSpec) -> float:
    """Share of the peak learning rate at a step of an experience, in (0, 1].

    Linear warm-up over ``warmup_share`` of the steps, then the decay towards zero, which would be
    reached one step after the last.

    Args:
        step: From 1.
        steps: Steps of the experience.
        spec: Warm-up and decay.
    """
    warmup = round(spec.warmup_share * steps)
    if step <= warmup:
        return step / warmup
    if spec.decay == "constant":
        return 1.0
    progress = (step - warmup - 1) / max(steps - warmup, 1)
    if spec.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
