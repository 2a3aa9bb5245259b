"""Holding chosen weights bit-identical whatever an optimizer does to them.

A protected weight does not change between two refreshes, so its value is stored once and written
back after each optimizer step. No gradient has to be masked, and moments, weight decay and
clipping may do what they like.

What changes a protected weight between two steps is not the optimizer: weights that are loaded
back, an average that is copied in, a model that is cast or moved. Such values are the new ones to
hold. They are found without reading the weights: a tensor counts the writes to it, and for writes
that go past this count (through ``.data``) a few protected weights of each tensor are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.bit_mask import WORDS, BitMask
from epi_bench.isolation.sharding import local

MANY_FROM = 0.2
"""Protected share of a tensor from which bits and a full copy are faster than positions."""

PROBES = 8
"""Protected weights of each tensor that are compared before each step."""


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


def memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions from the slowest to the fastest in memory; those of one element do not count.

    ``flat_view`` of two tensors of equal shape lines up if this is equal too.
    """
    return _order(tensor.shape, tensor.stride())


def _order(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    wide = [dim for dim, size in enumerate(shape) if size > 1]
    return tuple(sorted(wide, key=lambda dim: -stride[dim]))


class _Place(NamedTuple):
    """Where a tensor's elements lie, and as what."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class _Stamp(NamedTuple):
    """What tells whether a tensor is as it was left, but for writes through ``.data``."""

    place: _Place
    address: int
    version: int


def _place_of(tensor: Tensor) -> _Place:
    return _Place(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _layout(place: _Place) -> tuple[torch.Size, tuple[int, ...]]:
    return place.shape, _order(place.shape, place.stride)


def _stamp_of(tensor: Tensor) -> _Stamp:
    return _Stamp(_place_of(tensor), tensor.data_ptr(), tensor._version)


@dataclass(frozen=True)
class _Probe:
    """A few protected weights of one tensor, with their positions."""

    where: Tensor
    values: Tensor


@dataclass(frozen=True)
class _SavedFew:
    """Protected values of one tensor, with their positions."""

    where: Tensor
    values: Tensor

    def write_back(self, flat: Tensor) -> None:
        flat.index_copy_(0, self.where.long(), self.values)

    def changed(self, flat: Tensor) -> int:
        return int((_bits(flat[self.where.long()]) != _bits(self.values)).sum())

    def take_up(self, flat: Tensor) -> None:
        self.values.copy_(flat[self.where.long()])

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

    def changed(self, flat: Tensor) -> int:
        return self.where.count_changed(flat, self.values)

    def take_up(self, flat: Tensor) -> None:
        self.values.copy_(flat)

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

    not_in_state: ClassVar[Collection[str]] = ("_probes", "_saved", "_stamps")
    """The masks are saved, and the protected values are those in the model."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._saved: dict[str, _SavedFew | _SavedMany] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._probes: dict[str, _Probe] = {}

    @torch.no_grad()
    def protect(self, masks: Mapping[str, Tensor]) -> None:
        """Protect these weights at their present values, and no others.

        Args:
            masks: For each parameter a flat boolean mask in the order of memory.
        """
        self._saved, self._stamps, self._probes = {}, {}, {}
        for name, mask in masks.items():
            self._protect(name, mask)

    def _protect(self, name: str, mask: Tensor) -> None:
        count = int(mask.count_nonzero())
        if not count:
            return
        part = local(self._parameters[name])
        flat = flat_view(part)
        if count > MANY_FROM * flat.numel():
            bits = BitMask(mask, flat.element_size())
            self._saved[name] = _SavedMany(bits, flat.clone())
        else:
            positions = mask.nonzero().squeeze(1)
            small = flat.numel() <= torch.iinfo(torch.int32).max
            where = positions.to(torch.int32) if small else positions
            self._saved[name] = _SavedFew(where, flat[positions])
        probed = _spread_positions(mask)
        self._probes[name] = _Probe(probed, flat[probed])
        self._stamps[name] = _stamp_of(part)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the stored values back, bit for bit.

        Raises:
            UserError: If a parameter was cast, moved or laid out otherwise since they were stored.
        """
        for name, saved in self._saved.items():
            part = local(self._parameters[name])
            place = _place_of(part)
            if place != self._stamps[name].place:
                raise UserError(
                    f"parameter {name!r} is {_words(place)} now and was "
                    f"{_words(self._stamps[name].place)} when its protected values were stored: "
                    "cast or move the model before the optimizer's step, not within it, and call "
                    "take_up_changes() afterwards"
                )
            saved.write_back(flat_view(part))
            self._stamps[name] = _Stamp(place, part.data_ptr(), part._version)

    @torch.no_grad()
    def write_to(self, copies: Mapping[str, Tensor]) -> None:
        """Write the protected values into other tensors, at the same positions.

        Args:
            copies: For some parameters a tensor of the same shape.
        """
        for name, copy in copies.items():
            saved = self._saved.get(name)
            if saved is None:
                continue
            part = local(copy)
            if _place_of(part) == self._stamps[name].place:
                saved.write_back(flat_view(part))
                continue
            like = local(self._parameters[name].detach())
            mask = torch.empty_like(like, dtype=torch.bool)
            flat_view(mask).copy_(saved.mask(like.numel()))
            part.copy_(torch.where(mask.to(part.device), like.to(part.device, part.dtype), part))

    @torch.no_grad()
    def take_up_changes(self) -> int:
        """Hold what has been written to protected weights since the last call that stored or wrote.

        Call before an optimizer step. A parameter that was cast or moved to another device is held
        at its values there.

        Returns:
            How many protected weights were changed.

        Raises:
            UserError: If a parameter's shape or its order in memory has changed.
        """
        parts = {name: local(self._parameters[name]) for name in self._saved}
        stamps = {name: _stamp_of(part) for name, part in parts.items()}
        touched = [name for name, stamp in stamps.items() if stamp != self._stamps[name]]
        if not touched and not self._probes_differ(parts):
            return 0
        return sum(self._take_up(name, parts[name], stamps[name]) for name in parts)

    def _take_up(self, name: str, part: Tensor, stamp: _Stamp) -> int:
        saved, before = self._saved[name], self._stamps[name].place
        if _layout(stamp.place) != _layout(before):
            raise UserError(
                f"parameter {name!r} is {_words(stamp.place)} now and was {_words(before)} when "
                "it was protected: change shape and memory format (such as channels_last) before "
                "protecting, or protect again"
            )
        flat = flat_view(part)
        if stamp.place[2:] != before[2:]:  # another type or device
            mask = saved.mask(flat.numel()).to(flat.device)
            self._protect(name, mask)
            return int(mask.count_nonzero())
        changed = saved.changed(flat)
        if changed:
            saved.take_up(flat)
            probe = self._probes[name]
            probe.values.copy_(flat[probe.where])
        self._stamps[name] = stamp
        return changed

    def _probes_differ(self, parts: Mapping[str, Tensor]) -> bool:
        """Whether one of the few weights that are compared was changed."""
        by_place: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for name, probe in self._probes.items():
            now = flat_view(parts[name])[probe.where]
            by_place.setdefault((now.device, now.dtype), []).append((now, probe.values))
        return any(
            not torch.equal(
                _bits(torch.cat([now for now, _ in pairs])),
                _bits(torch.cat([values for _, values in pairs])),
            )
            for pairs in by_place.values()
        )

    def masks(self) -> dict[str, Tensor]:
        """For each parameter its flat boolean mask, in the order of memory."""
        masks = {}
        for name, parameter in self._parameters.items():
            saved = self._saved.get(name)
            part = local(parameter)
            if saved is None:
                masks[name] = torch.zeros(part.numel(), dtype=torch.bool, device=part.device)
            else:
                masks[name] = saved.mask(part.numel()).to(part.device)
        return masks

    def bytes(self) -> int:
        """Bytes held."""
        return sum(saved.bytes() for saved in self._saved.values())


def _spread_positions(mask: Tensor) -> Tensor:
    """Up to :data:`PROBES` positions of a mask that is not empty, without listing all of them."""
    stride = -(-mask.numel() // (PROBES << 10))
    found = mask[::stride].nonzero().squeeze(1) * stride
    if not found.numel():
        found = mask.nonzero().squeeze(1)
    return found[:: -(-found.numel() // PROBES)].clone()


def _bits(values: Tensor) -> Tensor:
    """The values as integers, so that NaN equals NaN and -0.0 differs from 0.0."""
    return values.view(WORDS[values.element_size()])


def _words(place: _Place) -> str:
    """A place for an error text."""
    shape = "x".join(str(size) for size in place.shape) or "scalar"
    dims = list(_order(place.shape, place.stride))
    order = "" if dims == sorted(dims) else f", dimensions in memory order {dims}"
    return f"{shape} {str(place.dtype).removeprefix('torch.')} on {place.device}{order}"
