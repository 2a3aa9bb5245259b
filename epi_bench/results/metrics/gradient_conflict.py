"""How often, and how much, the gradients of tasks point against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.results.metrics.score_matrix import ScoreMatrix, cell, check_matrix


@dataclass(frozen=True, slots=True)
class GradientConflict:
    """How often the gradients of two tasks point against each other.

    Attributes:
        negative_share: Share of the pairs with a negative cosine, 0..1.
        mean_cosine: Mean cosine of the pairs, -1..1.
        pairs: Number of (pair of tasks, point of measurement) that count.
    """

    negative_share: float | None
    mean_cosine: float | None
    pairs: int


def gradient_conflict(cosines: Sequence[ScoreMatrix]) -> GradientConflict:
    """Share of negative cosines, and mean cosine, over all pairs of tasks and points.

    Source: PCGrad (arXiv 2001.06782): two gradients conflict if their cosine is negative.

    Args:
        cosines: Symmetric matrices (tasks, tasks), one for each point of measurement; only the
            part above the diagonal is read, and ``None`` (a zero gradient) does not count.
    """
    known = []
    for matrix in cosines:
        check_matrix(matrix)
        if len(matrix) != len(matrix[0]):
            raise ValueError("a cosine matrix must be square")
        for first in range(len(matrix)):
            for second in range(first + 1, len(matrix)):
                cosine = cell(matrix, first, second)
                if cosine is not None:
                    known.append(cosine)
    if not known:
        return GradientConflict(None, None, 0)
    negative = sum(cosine < 0 for cosine in known)
    return GradientConflict(negative / len(known), math.fsum(known) / len(known), len(known))
