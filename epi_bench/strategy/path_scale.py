"""How much a quadratic predicts of what a way through weight space really costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategy.hooks import StrategyContext
from epi_bench.strategy.token_losses import mean_token_loss


class PathScale(NamedTuple):
    """The scale of a quadratic on a way.

    Attributes:
        scale: What the curvature has to be multiplied with, so that the quadratic predicts the
            rise of the loss; ``None`` where the loss rose nowhere on the way.
        part: The part of the way at which that was measured.
    """

    scale: float | None
    part: float


def scale_on_path(
    context: StrategyContext,
    parameters: Mapping[str, nn.Parameter],
    origin: Mapping[str, Tensor],
    way: Mapping[str, Tensor],
    curvature: Mapping[str, Tensor],
    examples: Sequence[EncodedExample],
    *,
    rise: float,
    loss_at_origin: float,
    part: float,
    most: float,
    tries: int,
) -> PathScale:
    """Measure how the loss rises on a way, near where it has risen by ``rise``.

    At ``origin + a way`` the quadratic ``a^2 / 2 sum_i F_i way_i^2`` is compared with the rise that
    is measured there. The part ``a`` is looked for at which the rise is about ``rise``, because a
    quadratic that is right there is wrong further out. All weights are put back afterwards.

    Args:
        context: Of the strategy.
        parameters: By name.
        origin: Where the way begins, for each parameter.
        way: Where it leads, as differences.
        curvature: ``F``, of the shapes of the parameters.
        examples: Whose loss is measured.
        rise: In nats a token, above 0.
        loss_at_origin: Mean over the examples' tokens, as
            :func:`epi_bench.strategy.token_losses.mean_token_loss` gives it.
        part: Where the search begins, above 0.
        most: The largest part that is tried.
        tries: Measurements at most.
    """
    predicted = sum(float((curvature[n] * way[n].square()).double().sum()) for n in way) / 2
    if not predicted > 0:
        return PathScale(None, part)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    best = PathScale(None, part)
    miss = math.inf
    for _ in range(tries):
        _put(parameters, {name: origin[name].float() + part * way[name] for name in parameters})
        found = mean_token_loss(context, examples) - loss_at_origin
        if found > 0 and abs(math.log(found / rise)) < miss:
            miss = abs(math.log(found / rise))
            best = PathScale(found / (part**2 * predicted), part)
        # the loss rises with about the square of the part
        factor = math.sqrt(rise / found) if found > 0 else 3.0
        part = min(most, part * min(max(factor, 1 / 3), 3.0))
    _put(parameters, before)
    return best


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
