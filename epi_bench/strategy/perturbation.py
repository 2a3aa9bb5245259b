"""Weights that are others for a moment."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from epi_bench.model.stochastic_rounding import HALF_PRECISION, round_stochastically


@contextmanager
def perturbed_weights(
    parameters: Mapping[str, nn.Parameter],
    direction: Mapping[str, Tensor],
    length: float,
    generator: random.Random,
) -> Iterator[None]:
    """A context manager with ``theta + length * direction`` as weights.

    Afterwards they are what they were, bit for bit: a copy is put back, because subtracting what
    was added would round. Weights of bfloat16 are rounded stochastically, as what is added is often
    smaller than what they can tell apart.

    Args:
        parameters: By name.
        direction: For some of them a tensor of its shape.
        length: What it is multiplied by.
        generator: Of the rounding.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> with perturbed_weights({"w": weight}, {"w": torch.ones(2)}, 0.5, random.Random(0)):
        ...     weight.tolist()
        [1.5, 2.5]
        >>> weight.tolist()
        [1.0, 2.0]
    """
    seed, kept = generator.getrandbits(63), {}
    draws: torch.Generator | None = None
    try:
        with torch.no_grad():
            for name, step in direction.items():
                parameter = parameters[name]
                kept[name] = parameter.detach().clone()
                if parameter.dtype in HALF_PRECISION:
                    moved = parameter.float().add_(step.float(), alpha=length)
                    draws = draws or torch.Generator(parameter.device).manual_seed(seed)
                    round_stochastically(parameter, moved, draws)
                else:
                    parameter.add_(step, alpha=length)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in kept.items():
                parameters[name].copy_(tensor)
