"""The parameters that an optimizer trains: which they are, and what a model calls them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from epi_bench.errors import UserError


def stepped_parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """The parameters that the optimizer steps and that are not frozen."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                yield parameter


def trained_parameters(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, nn.Parameter]:
    """The model's trainable parameters that the optimizer steps, by name, tied ones once.

    Names are those of the bare model, without what ``DistributedDataParallel`` or
    ``torch.compile`` put before them.

    Raises:
        UserError: If there are none.
    """
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    found = {
        name.replace("_orig_mod.", ""): parameter
        for name, parameter in inner.named_parameters()
        if parameter.requires_grad and id(parameter) in stepped
    }
    if not found:
        raise UserError(
            "the optimizer trains none of the model's parameters: make it from "
            "model.parameters() of this very model, after moving or wrapping it"
        )
    return found
