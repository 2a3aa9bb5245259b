"""Weights between two models."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_interpolation(start: Tensor, end: Tensor, share: float, smallest: float) -> Tensor:
    """From one tensor towards another along the arc between their directions (slerp).

    ``sin((1 - w) O) / sin(O) start + sin(w O) / sin(O) end`` with the angle ``O`` between the two
    as vectors (Shoemake 1985). Nearly parallel ones, and such as have no direction, are
    interpolated along a line.

    Args:
        start: Of any shape.
        end: Of the same.
        share: ``w``, in [0, 1]; 0 is the start.
        smallest: Angle below which they count as parallel, in radians.

    Returns:
        A single-precision tensor of their shape.

    Example:
        >>> found = spherical_interpolation(torch.eye(2)[0], torch.eye(2)[1], 0.5, 1e-3)
        >>> [round(number, 4) for number in found.tolist()]
        [0.7071, 0.7071]
    """
    first, second = start.double(), end.double()
    norms = float(first.norm()) * float(second.norm())
    cosine = float((first * second).sum()) / norms if norms > 0 else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle < smallest or math.pi - angle < smallest:
        return torch.lerp(first, second, share).float()
    parts = (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second).float()
    return parts / math.sin(angle)
