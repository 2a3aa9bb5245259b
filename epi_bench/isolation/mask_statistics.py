"""How a protected set moves: overlap with the previous and the first mask, share by module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from epi_bench.isolation.sharding import Processes

MODULE_KINDS = (
    ("embedding", ("embed", "wte", "wpe", "lm_head")),
    ("norm", ("norm", "ln_")),
    ("attention", ("attn", "attention")),
    ("mlp", ("mlp", "expert", "feed_forward")),
)
"""Kinds of modules and the parts of parameter names that tell them, first match wins."""


BITS_OF_BYTE = np.array([byte.bit_count() for byte in range(256)])
"""How many bits are set in each byte."""


class MaskHistory:
    """Statistics of a mask that moves; keeps the last and the first mask as packed bits.

    Args:
        sizes: Elements of each tensor by name, over all processes.
        processes: Over which the tensors are spread.
    """

    def __init__(self, sizes: Mapping[str, int], processes: Processes | None = None) -> None:
        self._sizes = sizes
        self._processes = processes or Processes()
        self._first: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._statistics: dict[str, float] = {}

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Take in the mask of a refresh."""
        packed = {name: pack_bits(mask) for name, mask in masks.items()}
        counts = self._counts(packed)
        ratio = sum(counts.values()) / sum(self._sizes.values())
        self._statistics = {"achieved_ratio": ratio, "jaccard_chance": ratio / (2 - ratio)}
        if self._last:
            previous = self._overlap(packed, self._last)
            self._statistics["jaccard_previous"] = previous
            self._statistics["jaccard_first"] = self._overlap(packed, self._first)
            self._statistics["churn"] = 1 - previous
        self._statistics |= self._shares(counts)
        self._last = packed
        self._first = self._first or self._last

    def statistics(self) -> dict[str, float]:
        """Of the last refresh."""
        return dict(self._statistics)

    def bytes(self) -> int:
        """Bytes held: at most two bits a parameter."""
        held = {id(bits): bits for bits in [*self._first.values(), *self._last.values()]}
        return sum(bits.numel() for bits in held.values())

    def state_dict(self) -> dict[str, Tensor]:
        """First and last mask."""
        return {f"first.{k}": v for k, v in self._first.items()} | {
            f"last.{k}": v for k, v in self._last.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up first and last mask."""
        self._first = {k[6:]: v for k, v in state.items() if k.startswith("first.")}
        self._last = {k[5:]: v for k, v in state.items() if k.startswith("last.")}

    def _counts(self, packed: Mapping[str, Tensor]) -> dict[str, int]:
        """Bits set in each tensor, over all processes."""
        here = torch.tensor([_count_bits(bits) for bits in packed.values()])
        return dict(zip(packed, self._processes.sum(here).tolist(), strict=True))

    def _overlap(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
        """Jaccard index ``|A and B| / |A or B|`` of packed masks; two empty sets overlap fully."""
        both = sum(self._counts({n: bits & second[n] for n, bits in first.items()}).values())
        either = sum(self._counts({n: bits | second[n] for n, bits in first.items()}).values())
        return both / either if either else 1.0

    def _shares(self, counts: Mapping[str, int]) -> dict[str, float]:
        protected: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for name, count in counts.items():
            kind = module_kind(name)
            protected[kind] = protected.get(kind, 0) + count
            sizes[kind] = sizes.get(kind, 0) + self._sizes[name]
        return {f"protected_{kind}": protected[kind] / sizes[kind] for kind in sorted(sizes)}


def module_kind(name: str) -> str:
    """The kind of module a parameter belongs to, told from its name."""
    lowered = name.lower()
    for kind, parts in MODULE_KINDS:
        if any(part in lowered for part in parts):
            return kind
    return "other"


def pack_bits(mask: Tensor) -> Tensor:
    """A flat boolean mask as bytes of eight bits, the first the least, on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), bitorder="little"))


def unpack_bits(packed: Tensor, size: int) -> Tensor:
    """The mask that :func:`pack_bits` packed."""
    bits = np.unpackbits(packed.cpu().numpy(), count=size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))


def _count_bits(packed: Tensor) -> int:
    """How many bits are set."""
    occurrences = np.bincount(packed.numpy(), minlength=256)
    return int(occurrences @ BITS_OF_BYTE)
