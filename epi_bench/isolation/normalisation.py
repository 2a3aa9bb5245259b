"""Making the importance of different parameter tensors comparable.

Each function maps one tensor of non-negative scores to scores of its own scale-free kind; the one
global threshold is applied to those. A tensor without information (all zero, or constant under
``min_max``) becomes all zero: nothing in it is protected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
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


def rank(scores: Tensor) -> Tensor:
    """Rank within the tensor divided by its size, in (0, 1]; a score of zero stays zero.

    Equal scores are ranked in the order of memory.
    """
    flat = scores.reshape(-1)
    ranks = torch.empty_like(flat)
    ascending = torch.arange(1, flat.numel() + 1, dtype=flat.dtype, device=flat.device)
    ranks[flat.argsort(stable=True)] = ascending / flat.numel()
    return torch.where(flat > 0, ranks, 0.0).view_as(scores)


def normalise(scores: Tensor, kind: Normalisation) -> Tensor:
    """The importance of one tensor on a scale that other tensors and other moments share.

    For strategies that combine importances of different experiences before they hand them to the
    isolation engine.

    Args:
        scores: Of any shape, single precision, not negative.
        kind: ``min_max``, ``mean`` or ``rank``.
    """
    return rank(scores) if kind == "rank" else AFFINE[kind](scores)


def unit_mean(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors divided by the mean over the whole model, which becomes 1.

    Keeps how tensors compare with each other and makes different tasks comparable: a task that was
    learned to a small loss has small gradients at its end, and would count for next to nothing
    beside one that was not. All zero stays all zero.

    Args:
        importance: By parameter name; not negative.
    """
    total = sum(float(scores.double().sum()) for scores in importance.values())
    size = sum(scores.numel() for scores in importance.values())
    scale = size / total if total > 0 else 0.0
    return {name: scores * scale for name, scores in importance.items()}
