"""Where in a model graded protection is: the stiffness of its parts beside their size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from epi_bench.isolation.mask_statistics import layer_of, module_kind

LAYER = "layer_"
"""Begins the name of a layer of the stack."""


class PartShare(NamedTuple):
    """One part of a model: a kind of module, or a layer.

    Attributes:
        weights: Share of the weights that have a stiffness, in 0..1.
        stiffness: Share of the sum of all stiffness, in 0..1.
    """

    weights: float
    stiffness: float


def stiffness_shares(stiffness: Mapping[str, Tensor]) -> dict[str, PartShare]:
    """The shares of each kind of module, and of each layer of the stack.

    Args:
        stiffness: Of each trained weight, by parameter, as ``Strategy.stiffness`` gives it.

    Returns:
        By ``attention``, ``mlp``, ``embedding``, ``norm``, ``other`` and ``layer_<number>`` from
        0; empty where the sum of all stiffness is 0 or not finite.

    Example:
        >>> named = {"h.0.attn.w": torch.tensor([1.0, 2.0]), "h.1.mlp.w": torch.tensor([3.0, 0.0])}
        >>> stiffness_shares(named)["attention"]
        PartShare(weights=0.5, stiffness=0.5)
    """
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for name, tensor in stiffness.items():
        total = float(tensor.sum(dtype=torch.float64))
        for part in (module_kind(name), layer_of(name)):
            if part is not None:
                sums[part] = sums.get(part, 0.0) + total
                sizes[part] = sizes.get(part, 0) + tensor.numel()
    kinds = [part for part in sums if not part.startswith(LAYER)]
    whole, size = math.fsum(sums[kind] for kind in kinds), sum(sizes[kind] for kind in kinds)
    if not 0 < whole < math.inf:
        return {}
    return {
        # of all of a model, summed in another order, the share is 1 and not a rounding more
        part: PartShare(sizes[part] / size, min(sums[part] / whole, 1.0))
        for part in (*sorted(kinds), *sorted(set(sums) - set(kinds), key=_layer_number))
    }


def _layer_number(part: str) -> int:
    return int(part.removeprefix(LAYER))
