"""Non-negative floats as integers that order alike, and the two questions asked of many of them.

Both questions read every score of a model, so they are asked block by block: a block and what is
computed from it stay in the processor's cache. On the CPU they go through NumPy, whose integer
comparisons take half the time of PyTorch's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BEYOND_INFINITY = 0x7F800001
"""Above the bit pattern of infinity, the largest score."""

LEAST_KEY = -(1 << 31)
"""Below every key; the key of -0.0, which counts as zero."""

BLOCK = 1 << 17
"""Elements of a block."""


def sort_keys(scores: Tensor) -> Tensor:
    """Integers that order like the scores.

    Args:
        scores: float32, not negative, not NaN.
    """
    return scores.view(torch.int32)


def count_and_extract(keys: Tensor, low: int, high: int) -> tuple[int, Tensor]:
    """How many keys are at least ``high``, and the keys in [low, high) in their order.

    Args:
        keys: Flat, int32.
        low: From :data:`LEAST_KEY`.
        high: Not below ``low``.
    """
    if keys.device.type != "cpu":
        inside = keys[(keys >= low) & (keys < high)] if low < high else keys[:0]
        return int((keys >= high).sum()), inside
    above, parts = 0, []
    flat = keys.numpy()
    width, start_of_width = np.uint32(high - low), np.int32(low)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        if high < BEYOND_INFINITY:
            above += int(np.count_nonzero(block >= high))
        if low < high:
            # wraps round below low, so that one unsigned comparison tests both ends
            offsets = np.subtract(block, start_of_width).view(np.uint32)
            parts.append(block[np.flatnonzero(offsets < width)])
    return above, torch.from_numpy(np.concatenate(parts) if parts else flat[:0].copy())


def at_least(keys: Tensor, low: int) -> Tensor:
    """Boolean mask of the keys that are at least ``low``."""
    if low >= BEYOND_INFINITY:
        return torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    if keys.device.type != "cpu":
        return keys >= low
    return torch.from_numpy(np.greater_equal(keys.numpy(), low))
