"""DARE: drop most of what an experience changed, and enlarge the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from epi_bench import TaskVectors, TradeOff, UserError, elected_mean, register_strategy


@register_strategy("dare")
class DARE(TaskVectors):
    """Most entries of what an experience changed are dropped at random, the others enlarged.

    Drop and rescale (Yu et al. 2024, arXiv 2311.03099): an entry of ``tau_k = theta_k - theta_0``
    is kept with probability ``density`` and divided by it, independently for each experience; what
    is left is summed, or merged as in ``ties``. The expected sum stays the same and fewer entries
    meet; the variance grows with ``(1 - density) / density``. The authors state as a condition that
    fine-tuning has changed a weight by less than about 0.002.

    With a low-rank adapter on the model each experience has its own, and the products ``B A`` are
    merged.

    Args:
        scale: At least 0; 0 is the base model.
        density: Share of the entries that is kept, in (0, 1].
        method: What becomes of the rest: ``linear``, the sum, or ``ties``, the mean of the values
            with the elected sign.
        from_base: Whether each experience is trained from the base model, as in the paper;
            otherwise from where the experience before ended.
    """

    trade_off = TradeOff("scale", (1.0, 0.7, 0.5, 0.4, 0.3, 0.1))
    evidence = (
        "Its authors report that nine of ten changes of a fine-tuned chat model can be dropped."
    )

    def __init__(
        self,
        scale: float = 0.5,
        density: float = 0.1,
        method: Literal["linear", "ties"] = "linear",
        from_base: bool = True,
    ) -> None:
        super().__init__(scale, from_base)
        if not 0 < density <= 1:
            raise UserError(f"dare: density={density} must lie in (0, 1]")
        self.density = density
        self.method = method

    def merged(self, vectors: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The sum of what is left of each, or the mean of what agrees."""
        found = {}
        for name in vectors[0]:
            kept = [self._thinned(k, name, vector[name]) for k, vector in enumerate(vectors)]
            found[name] = elected_mean(kept) if self.method == "ties" else torch.stack(kept).sum(0)
        return found

    def _thinned(self, experience: int, name: str, vector: Tensor) -> Tensor:
        """A vector's tensor with most entries dropped; the same ones whenever it is merged."""
        if self.density == 1:
            return vector
        generator = self.context.torch_generator(f"dare, experience {experience}, {name}")
        kept = torch.rand(vector.shape, generator=generator) < self.density
        return torch.where(kept.to(vector.device), vector / self.density, 0.0)
