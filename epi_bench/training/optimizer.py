"""Optimizers and learning-rate schedules, built from the specification."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from epi_bench.spec.run_spec import TrainingSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


def build_optimizer(
    parameters: Iterable[nn.Parameter], spec: TrainingSpec, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of one experience.

    Weight decay is decoupled from the gradient for each of them (Loshchilov and Hutter 2019, arXiv
    1711.05101). Vectors (biases, normalisation weights) are not decayed, as is usual for
    transformers.

    AdamW and Adafactor have the settings that ``transformers.Trainer`` gives them
    (``adamw_torch_fused``, ``adafactor``); torch's own Adafactor would multiply the learning rate
    by the size of each tensor. The Trainer cannot make them here: its groups go by the classes of
    a model's layers, and its ``sgd`` has no momentum and adds weight decay to the gradient.

    Args:
        parameters: What is trained.
        spec: Kind of optimizer and weight decay.
        learning_rate: Peak of the schedule, the strategy's factor included.
    """
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
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
        for group in groups:  # torch's own weight_decay is added to the gradient
            group["decoupled_weight_decay"] = group.pop("weight_decay")
        sgd = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
        sgd.register_step_pre_hook(_decay_weights)
        return sgd
    if spec.optimizer == "adafactor":
        from transformers import Adafactor

        return Adafactor(groups, lr=learning_rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _decay_weights(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Multiply every weight that is about to be stepped by ``1 - learning rate * decay``."""
    import torch

    with torch.no_grad():
        for group in optimizer.param_groups:
            stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
            if stepped and group["decoupled_weight_decay"]:
                factor = 1 - group["lr"] * group["decoupled_weight_decay"]
                torch._foreach_mul_(stepped, factor)
