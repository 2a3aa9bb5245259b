"""Bringing importances of different experiences to one scale, so that they can be combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from epi_bench.isolation.normalisation import Normalisation, measure_scaling
from epi_bench.isolation.selection import select_unscaled
from epi_bench.isolation.sharding import Processes

Control = Literal["none", "permuted", "inverted"]
"""How a control gives importances to other weights; see :func:`reassign`."""


def normalise(scores: Tensor, kind: Normalisation) -> Tensor:
    """The importance of one tensor on a scale that other tensors and other moments share.

    For strategies that combine importances of different experiences before they hand them to the
    isolation engine.

    >>> normalise(torch.tensor([0.0, 1.0, 3.0, 4.0]), "mean").tolist()
    [0.0, 0.5, 1.5, 2.0]
    >>> normalise(torch.tensor([0.0, 3.0, 1.0, 4.0]), "rank").tolist()
    [0.0, 0.75, 0.5, 1.0]

    Args:
        scores: Of any shape, single precision, not negative.
        kind: ``min_max``: ``(I - min) / (max - min)``; ``mean``: ``I / mean(I)``; ``rank``: the
            rank within the tensor divided by its size, in (0, 1], where a score of zero stays zero
            and equal scores are ranked in the order of memory.
    """
    if kind == "rank":
        return _rank(scores)
    scaling = measure_scaling(kind, ["scores"], lambda _: scores.reshape(-1), Processes())
    return scaling.normalise(0, scores)


def unit_mean(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors divided by the mean over the whole model, which becomes 1.

    Keeps how tensors compare with each other and makes different tasks comparable: a task that was
    learned to a small loss has small gradients at its end, and would count for next to nothing
    beside one that was not. All zero stays all zero.

    >>> found = unit_mean({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([8.0, 4.0])})
    >>> {name: scores.tolist() for name, scores in found.items()}
    {'a': [0.25, 0.75], 'b': [2.0, 1.0]}

    Args:
        importance: By parameter name; not negative.
    """
    total = sum(float(scores.double().sum()) for scores in importance.values())
    size = sum(scores.numel() for scores in importance.values())
    scale = size / total if total > 0 else 0.0
    return {name: scores * scale for name, scores in importance.items()}


def reassign(scores: Tensor, control: Control, generator: torch.Generator) -> Tensor:
    """Ablation control: the same importance values, assigned to other weights of the tensor.

    What is protected keeps its strength and loses its aim.

    >>> scores = torch.tensor([1.0, 4.0, 2.0])
    >>> reassign(scores, "inverted", torch.Generator()).tolist()
    [4.0, 1.0, 2.0]

    Args:
        scores: Of any shape.
        control: ``permuted`` draws the weights at random, ``inverted`` gives the largest importance
            to the least important weight and so on, ``none`` leaves the scores as they are.
        generator: Of the permutation, on the CPU.
    """
    if control == "none":
        return scores
    flat = scores.reshape(-1)
    if control == "inverted":
        order = flat.argsort(stable=True)
        values = flat[order.flip(0)]
    else:
        order = torch.randperm(flat.numel(), generator=generator).to(flat.device)
        values = flat
    return torch.empty_like(flat).index_copy_(0, order, values).view_as(scores)


def top_share(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the largest scores over all tensors together, without sorting or joining them.

    >>> masks = top_share({"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([3.0, 0.0])}, 0.5)
    >>> {name: mask.tolist() for name, mask in masks.items()}
    {'a': [True, False], 'b': [True, False]}

    Args:
        scores: By name, of any shapes, not negative, not NaN.
        share: How many of all are taken, in [0, 1]; the number is rounded. Of equal scores the
            first ones are taken, and a score of zero never is.

    Returns:
        For each name booleans of the shape of its scores.
    """
    count = round(share * sum(tensor.numel() for tensor in scores.values()))
    flat = {name: tensor.detach().float().reshape(-1) for name, tensor in scores.items()}
    masks = select_unscaled(list(scores), flat.__getitem__, count)
    return {name: masks[name].view(tensor.shape) for name, tensor in scores.items()}


def _rank(scores: Tensor) -> Tensor:
    flat = scores.reshape(-1)
    ranks = torch.empty_like(flat)
    ascending = torch.arange(1, flat.numel() + 1, dtype=flat.dtype, device=flat.device)
    ranks[flat.argsort(stable=True)] = ascending / flat.numel()
    return torch.where(flat > 0, ranks, 0.0).view_as(scores)
