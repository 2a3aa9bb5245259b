"""Rounding to bfloat16 that is right on average, so that small changes are not lost."""

from __future__ import annotations

import torch
from torch import Tensor

HALF_PRECISION = (torch.bfloat16, torch.float16)
"""Types of weights for which updates of a fine-tuning are too small."""


@torch.no_grad()
def round_stochastically(stored: Tensor, values: Tensor, generator: torch.Generator) -> None:
    """Set a bfloat16 tensor to float32 values, rounded up or down at random.

    A value is rounded up with a probability equal to its place between its two neighbours: 16
    random bits are added below the last kept digit, and the rest is cut off. A value that bfloat16
    can hold stays what it is.

    Args:
        stored: Changed in place; of another type than bfloat16, values are rounded to the nearest.
        values: Of the same shape, float32; used up.
        generator: On the device of the tensors.
    """
    if stored.dtype != torch.bfloat16:
        stored.copy_(values)
        return
    bits = values.view(torch.int32)
    noise = torch.randint(
        1 << 16, bits.shape, generator=generator, device=bits.device, dtype=torch.int32
    )
    stored.copy_(bits.add_(noise).bitwise_and_(-(1 << 16)).view(torch.float32))
