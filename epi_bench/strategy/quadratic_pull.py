"""``sum F d^2`` in the memory of its gradient: nothing is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def weighted_square(weight: Tensor, anchor: Tensor | None, *importance: Tensor) -> Tensor:
    """``sum_i F_i (theta_i - theta*_i)^2`` of one tensor, with its graph.

    The same numbers as ``(importance * (weight - anchor).square()).sum()``, value and gradient, to
    the last bit. Written like that, autograd keeps the distance until the backward pass, for all
    tensors of the model at once: 4 bytes a parameter and more, at the time when memory is scarcest.
    Here it is computed again.

    Args:
        weight: What is drawn; the gradient goes there alone.
        anchor: Where to; ``None`` for zero. It may lie in host memory.
        importance: One tensor of the weight's shape, or two, the mean of each row and of each
            column of a matrix, which stand for ``F_ij = row_i column_j / mean(row)``. They may lie
            in host memory and have another type.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> found = weighted_square(weight, torch.zeros(2), torch.tensor([3.0, 1.0]))
        >>> found.backward()
        >>> found.item(), weight.grad.tolist()
        (7.0, [6.0, 4.0])
    """
    result: Tensor = _WeightedSquare.apply(weight, anchor, *importance)
    return result


def weighted_distance(
    model: nn.Module, anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """``sum_i F_i (theta_i - theta*_i)^2`` over the parameters of a model, with its graph.

    Args:
        model: Its parameters are what is drawn.
        anchor: Where to, by name.
        importance: Of each weight, by name, at least one; other parameters are free.
    """
    parameters = dict(model.named_parameters())
    terms = [weighted_square(parameters[n], anchor[n], weight) for n, weight in importance.items()]
    return torch.stack(terms).sum()


def full_importance(shape: torch.Size, *importance: Tensor) -> Tensor:
    """Importance as one tensor, whichever form it is kept in.

    >>> rows, columns = torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])
    >>> full_importance(torch.Size([2, 2]), rows, columns).tolist()  # row and column means are kept
    [[1.5, 0.5], [4.5, 1.5]]

    Args:
        shape: Of the weight.
        importance: As for :func:`weighted_square`.
    """
    if len(importance) == 1:
        return importance[0]
    rows, columns = (part.float() for part in importance)
    mean = rows.mean()
    scale = torch.where(mean > 0, 1 / mean, torch.zeros_like(mean))
    return ((rows * scale)[:, None] * columns).view(shape)


class _WeightedSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, anchor: Tensor | None, *importance: Tensor) -> Tensor:
        ctx.save_for_backward(weight, anchor, *importance)
        distance = _distance(weight, anchor)
        return (_beside(weight, importance) * distance.square()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, anchor, *importance = ctx.saved_tensors
        distance = _distance(weight, anchor)
        # in the order in which autograd multiplies, so that the last bits are the same
        pull = (gradient * _beside(weight, importance)).to(distance.dtype) * (2 * distance)
        return pull, None, *(None for _ in importance)


def _distance(weight: Tensor, anchor: Tensor | None) -> Tensor:
    return weight if anchor is None else weight - anchor.to(weight.device, non_blocking=True)


def _beside(weight: Tensor, importance: Any) -> Tensor:
    """The importance where the weight is."""
    moved = (part.to(weight.device, non_blocking=True) for part in importance)
    return full_importance(weight.shape, *moved)
