"""Making the importance of different parameter tensors comparable.

``min_max`` is ``(I - min) / (max - min)``, ``mean`` is ``I / mean(I)``; both are monotone within a
tensor and known by two numbers of it, so that one threshold of the normalised scores is one
threshold a tensor of the scores themselves. ``rank`` is done in the selection. A tensor without
information (all zero, or constant under ``min_max``) is all zero when normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epi_bench.isolation.keys import BEYOND_INFINITY, LEAST_KEY, sort_keys
from epi_bench.isolation.sharding import Processes

Normalisation = Literal["min_max", "mean", "rank"]

PIECE = 1 << 17
"""Elements that are converted to double precision at a time."""


class Scaling:
    """``(score - offset) / divisor`` in single precision, with numbers for each tensor.

    Args:
        offsets: One for each tensor.
        divisors: One for each tensor; 0 for a tensor without information.
    """

    def __init__(self, offsets: NDArray[np.float32], divisors: NDArray[np.float32]) -> None:
        self._offsets = offsets
        self._divisors = divisors
        self._identity = bool(np.all(offsets == 0) and np.all(divisors == 1))

    @classmethod
    def none(cls, tensors: int) -> Scaling:
        """Leaves a number of tensors as they are."""
        return cls(np.zeros(tensors, np.float32), np.ones(tensors, np.float32))

    def normalise(self, tensor: int, scores: Tensor) -> Tensor:
        """Scores of a tensor, normalised."""
        if self._identity:
            return scores
        divisor = float(self._divisors[tensor])
        if not divisor > 0:
            return torch.zeros_like(scores)
        if self._offsets[tensor] == 0:
            return scores / divisor
        return (scores - float(self._offsets[tensor])) / divisor

    def keys(self, tensor: int, keys: Tensor) -> Tensor:
        """Sort keys of the normalised scores from those of the scores."""
        if self._identity:
            return keys
        return sort_keys(self.normalise(tensor, keys.view(torch.float32)))

    def cuts(self, key: int) -> NDArray[np.int64]:
        """For each tensor the least key of its scores that, normalised, is at least ``key``.

        Found by bisection with the same arithmetic, hence exact; :data:`BEYOND_INFINITY` where no
        score reaches so far.
        """
        tensors = len(self._offsets)
        if key <= 0:
            return np.full(tensors, LEAST_KEY, np.int64)
        if self._identity:
            return np.full(tensors, key, np.int64)
        low, high = np.zeros(tensors, np.int64), np.full(tensors, BEYOND_INFINITY, np.int64)
        informed = self._divisors > 0
        divisors = np.where(informed, self._divisors, np.float32(1))
        wanted = np.int32(key).view(np.float32)
        with np.errstate(all="ignore"):
            while np.any(low < high):
                middle = (low + high) // 2
                scores = middle.astype(np.int32).view(np.float32)
                reached = (scores - self._offsets) / divisors >= wanted
                high = np.where(reached, middle, high)
                low = np.where(reached, low, np.minimum(middle + 1, high))
        return np.where(informed, low, BEYOND_INFINITY)


def measure_scaling(
    normalisation: Literal["min_max", "mean"],
    names: Sequence[str],
    scores: Callable[[str], Tensor],
    processes: Processes,
) -> Scaling:
    """The scaling of each tensor.

    Args:
        normalisation: Which.
        names: Of the tensors.
        scores: Gives each tensor's flat scores, float32, not negative.
        processes: Over which the tensors are spread.
    """
    if normalisation == "mean":
        sums = torch.tensor([_sum(scores(name)) for name in names], dtype=torch.float64)
        sizes = torch.tensor([scores(name).numel() for name in names], dtype=torch.float64)
        means = (processes.sum(sums) / processes.sum(sizes).clamp(min=1)).float().numpy()
        return Scaling(np.zeros(len(names), np.float32), means)
    extremes = [_extremes(scores(name)) for name in names]
    least = processes.minimum(torch.tensor([low for low, _ in extremes])).numpy()
    largest = processes.maximum(torch.tensor([high for _, high in extremes])).numpy()
    with np.errstate(invalid="ignore"):  # infinity less infinity, of tensors without elements
        spread = largest - least
    return Scaling(np.where(spread > 0, least, 0).astype(np.float32), np.maximum(spread, 0))


def _sum(scores: Tensor) -> float:
    """In double precision, without a copy of the whole in double precision."""
    return sum(float(piece.double().sum()) for piece in scores.split(PIECE))


def _extremes(scores: Tensor) -> tuple[float, float]:
    if not scores.numel():
        return float("inf"), 0.0
    least, largest = scores.aminmax()
    return float(least), float(largest)
