"""Making the importance of different parameter tensors comparable.

Each function maps one tensor of non-negative scores to scores of its own scale-free kind; the one
global threshold is applied to those. A tensor without information (all zero, or constant under
``min_max``) becomes all zero: nothing in it is protected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Normalisation = Literal["min_max", "mean", "rank"]


def min_max(scores: Tensor) -> Tensor:
    """``(I - min) / (max - min)``, in [0, 1]."""
    smallest, largest = scores.aminmax()
    spread = largest - smallest
    if not bool(spread > 0):
        return scores.new_zeros(scores.shape)
    return (scores - smallest) / spread


def mean(scores: Tensor) -> Tensor:
    """``I / mean(I)``, at least 0."""
    average = scores.double().mean()
    if not bool(average > 0):
        return scores.new_zeros(scores.shape)
    return (scores / average).to(scores.dtype)


AFFINE: dict[str, Callable[[Tensor], Tensor]] = {"min_max": min_max, "mean": mean}
"""The normalisations that are computed value by value; ``rank`` is done in the selection."""
