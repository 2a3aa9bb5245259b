"""TIES: merge what the experiences changed where they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from epi_bench import (
    TaskVectors,
    TradeOff,
    UserError,
    elected_mean,
    register_strategy,
    trimmed,
)


@register_strategy("ties")
class TIES(TaskVectors):
    """What each experience changed is trimmed, a sign is elected, and what agrees is averaged.

    TIES-Merging (Yadav et al. 2023, arXiv 2306.01708). For the vectors ``tau_k = theta_k -
    theta_0``:

    1. trim: the ``density`` of the entries with the largest ``|tau|`` is kept, the rest is 0
    2. elect: the sign of an entry is that of the sum over the experiences
    3. merge: the mean of the values with that sign, zeros left out
    4. ``theta = theta_0 + scale`` times that

    With a low-rank adapter on the model each experience has its own, and the products ``B A`` are
    merged.

    Args:
        scale: At least 0; 0 is the base model.
        density: Share of the entries of each vector that is kept, in (0, 1].
        method: How a sign is elected: ``total`` by the sum of the values, as in the paper, or
            ``frequency`` by the number of values.
        scope: Whether the density is that of each ``tensor``, as peft has it, or of the whole
            ``model``.
        from_base: Whether each experience is trained from the base model, as in the paper;
            otherwise from where the experience before ended.
    """

    trade_off = TradeOff("scale", (1.5, 1.0, 0.7, 0.5, 0.3))
    evidence = "Its authors report more than for sums of vectors, the more so the more tasks."

    def __init__(
        self,
        scale: float = 1.0,
        density: float = 0.2,
        method: Literal["total", "frequency"] = "total",
        scope: Literal["tensor", "model"] = "tensor",
        from_base: bool = True,
    ) -> None:
        super().__init__(scale, from_base)
        if not 0 < density <= 1:
            raise UserError(f"ties: density={density} must lie in (0, 1]")
        self.density = density
        self.method = method
        self.scope = scope

    def merged(self, vectors: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The mean of what agrees."""
        kept = [trimmed(vector, self.density, self.scope) for vector in vectors]
        return {name: elected_mean([v[name] for v in kept], self.method) for name in vectors[0]}
