"""Holding chosen weights bit-identical whatever an optimizer does to them.

A protected weight does not change between two refreshes, so its value is stored once and written
back after each optimizer step. No gradient has to be masked, and moments, weight decay and
clipping may do what they like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DENSE_FROM = 0.3
"""Protected share of a tensor from which a mask and a full copy are faster than indices."""


def flat_view(tensor: Tensor) -> Tensor:
    """All elements in the order of memory, as a view that writes go through.

    ``reshape(-1)`` would copy a tensor that is not contiguous, and writes would be lost.

    Raises:
        ValueError: If the elements do not fill a block of memory exactly once.
    """
    tensor = tensor.detach()
    if tensor.is_contiguous():
        return tensor.view(-1)
    ordered = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, size in ordered:
        if size != 1 and stride != expected:
            raise ValueError("a parameter whose elements overlap or leave gaps cannot be protected")
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,))


@dataclass(frozen=True)
class _Saved:
    """Protected values of one tensor: compact with indices, or whole with a mask."""

    where: Tensor
    values: Tensor
    dense: bool

    def write_back(self, flat: Tensor) -> None:
        if self.dense:
            torch.where(self.where, self.values, flat, out=flat)
        else:
            flat.index_copy_(0, self.where, self.values)

    def mask(self, size: int) -> Tensor:
        if self.dense:
            return self.where
        mask = torch.zeros(size, dtype=torch.bool, device=self.where.device)
        mask[self.where] = True
        return mask

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.where, self.values))


class ProtectedWeights:
    """The protected weights of a model and their values.

    Costs 12 bytes a protected weight (index and single-precision value), or, for tensors of which
    more than :data:`DENSE_FROM` is protected, 5 bytes a weight (mask and copy).

    Args:
        parameters: By name; all tensors are filled densely.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._saved: dict[str, _Saved] = {}

    @torch.no_grad()
    def protect(self, masks: Mapping[str, Tensor]) -> None:
        """Protect these weights at their present values, and no others.

        Args:
            masks: For each parameter a flat boolean mask in the order of memory.
        """
        self._saved = {}
        for name, mask in masks.items():
            count = int(mask.sum())
            if not count:
                continue
            flat = flat_view(self._parameters[name])
            if count > DENSE_FROM * flat.numel():
                self._saved[name] = _Saved(mask, flat.clone(), True)
            else:
                index = mask.nonzero().squeeze(1)
                self._saved[name] = _Saved(index, flat[index], False)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the stored values back, bit for bit."""
        for name, saved in self._saved.items():
            saved.write_back(flat_view(self._parameters[name]))

    def masks(self) -> dict[str, Tensor]:
        """For each parameter its flat boolean mask, in the order of memory."""
        masks = {}
        for name, parameter in self._parameters.items():
            saved = self._saved.get(name)
            if saved is None:
                masks[name] = torch.zeros(
                    parameter.numel(), dtype=torch.bool, device=parameter.device
                )
            else:
                masks[name] = saved.mask(parameter.numel())
        return masks

    def bytes(self) -> int:
        """Bytes held."""
        return sum(saved.bytes() for saved in self._saved.values())
