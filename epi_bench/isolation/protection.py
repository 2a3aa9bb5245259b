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

from epi_bench.isolation.bit_mask import BitMask
from epi_bench.isolation.sharding import local

MANY_FROM = 0.2
"""Protected share of a tensor from which bits and a full copy are faster than positions."""


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
class _SavedFew:
    """Protected values of one tensor, with their positions."""

    where: Tensor
    values: Tensor

    def write_back(self, flat: Tensor) -> None:
        flat.index_copy_(0, self.where.long(), self.values)

    def mask(self, size: int) -> Tensor:
        mask = torch.zeros(size, dtype=torch.bool, device=self.where.device)
        mask[self.where.long()] = True
        return mask

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.where, self.values))


@dataclass(frozen=True)
class _SavedMany:
    """A whole tensor, and one bit a weight that says which of its values are protected."""

    where: BitMask
    values: Tensor

    def write_back(self, flat: Tensor) -> None:
        self.where.write_back(flat, self.values)

    def mask(self, size: int) -> Tensor:
        return self.where.mask()

    def bytes(self) -> int:
        return self.where.bytes() + self.values.numel() * self.values.element_size()


class ProtectedWeights:
    """The protected weights of a model and their values.

    Costs 8 bytes a protected weight (position and single-precision value), or, for tensors of
    which more than :data:`MANY_FROM` is protected, 4 1/8 bytes a weight (bits and copy).

    Args:
        parameters: By name; all tensors are filled densely. Of sharded ones this process's part
            is held.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._saved: dict[str, _SavedFew | _SavedMany] = {}

    @torch.no_grad()
    def protect(self, masks: Mapping[str, Tensor]) -> None:
        """Protect these weights at their present values, and no others.

        Args:
            masks: For each parameter a flat boolean mask in the order of memory.
        """
        self._saved = {}
        for name, mask in masks.items():
            count = int(mask.count_nonzero())
            if not count:
                continue
            flat = flat_view(local(self._parameters[name]))
            if count > MANY_FROM * flat.numel():
                bits = BitMask(mask, flat.element_size())
                self._saved[name] = _SavedMany(bits, flat.clone())
            else:
                positions = mask.nonzero().squeeze(1)
                small = flat.numel() <= torch.iinfo(torch.int32).max
                where = positions.to(torch.int32) if small else positions
                self._saved[name] = _SavedFew(where, flat[positions])

    @torch.no_grad()
    def restore(self) -> None:
        """Write the stored values back, bit for bit."""
        for name, saved in self._saved.items():
            saved.write_back(flat_view(local(self._parameters[name])))

    def masks(self) -> dict[str, Tensor]:
        """For each parameter its flat boolean mask, in the order of memory."""
        masks = {}
        for name, parameter in self._parameters.items():
            saved = self._saved.get(name)
            part = local(parameter)
            if saved is None:
                masks[name] = torch.zeros(part.numel(), dtype=torch.bool, device=part.device)
            else:
                masks[name] = saved.mask(part.numel())
        return masks

    def bytes(self) -> int:
        """Bytes held."""
        return sum(saved.bytes() for saved in self._saved.values())
