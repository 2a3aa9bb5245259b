"""How a protected set moves: overlap with earlier masks, and its share by module and layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from epi_bench.isolation.saved_state import state_part
from epi_bench.isolation.sharding import Processes

MODULE_KINDS = (
    ("embedding", ("embed", "wte", "wpe", "lm_head")),
    ("norm", ("norm", "ln_")),
    ("attention", ("attn", "attention")),
    ("mlp", ("mlp", "expert", "feed_forward")),
)
"""Kinds of modules and the parts of parameter names that tell them, first match wins."""


LAYER_NUMBER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(\d+)\.")
"""Where a parameter's name tells the layer of the stack that it belongs to."""

BITS_OF_BYTE = np.array([byte.bit_count() for byte in range(256)])
"""How many bits are set in each byte."""


class MaskHistory:
    """Statistics of a mask that moves; keeps earlier masks as packed bits.

    Kept are the first mask, the last, and the one at the end of each experience.

    Args:
        sizes: Elements of each tensor by name, over all processes.
        processes: Over which the tensors are spread.
    """

    def __init__(self, sizes: Mapping[str, int], processes: Processes | None = None) -> None:
        self._sizes = sizes
        self._processes = processes or Processes()
        self._first: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._experiences: list[dict[str, Tensor]] = []
        self._statistics: dict[str, float] = {}

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Take in the mask of a refresh."""
        kept = [self._first, self._last, *self._experiences]
        packed = {name: _kept_once(name, pack_bits(m), kept) for name, m in masks.items()}
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

    def end_experience(self) -> None:
        """Keep the last mask as that of an experience, and compare it with those before.

        From now until the mask moves, the statistics have ``jaccard_experience_<k>``, its overlap
        with the mask at the end of experience k, counted from 1. Does nothing before the first
        mask.
        """
        if not self._last:
            return
        for number, earlier in enumerate(self._experiences, start=1):
            overlap = self._overlap(self._last, earlier)
            self._statistics[f"jaccard_experience_{number}"] = overlap
        self._experiences.append(self._last)

    def statistics(self) -> dict[str, float]:
        """Of the last refresh."""
        return dict(self._statistics)

    def bytes(self) -> int:
        """Bytes held: at most two bits a parameter, and one for each finished experience."""
        masks = [self._first, self._last, *self._experiences]
        held = {id(bits): bits for mask in masks for bits in mask.values()}
        return sum(bits.numel() for bits in held.values())

    def state_dict(self) -> dict[str, Tensor]:
        """First mask, last mask, those of the experiences, and the statistics of the last one."""
        masks = {"first": self._first, "last": self._last}
        masks |= {f"experience {n}": mask for n, mask in enumerate(self._experiences, start=1)}
        state = {f"{which}.{k}": v for which, mask in masks.items() for k, v in mask.items()}
        for name, value in self._statistics.items():
            state[f"statistics.{name}"] = torch.tensor(value, dtype=torch.float64)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it; equal masks share their memory, as before.

        States of earlier versions hold no statistics: there are none until the next refresh.
        """
        masks: dict[str, dict[str, Tensor]] = {}
        for key, bits in state.items():
            which, _, name = key.partition(".")
            if which != "statistics":
                masks.setdefault(which, {})[name] = _kept_once(name, bits.cpu(), masks.values())
        self._first = masks.pop("first", {})
        self._last = masks.pop("last", {})
        self._experiences = [masks[f"experience {n + 1}"] for n in range(len(masks))]
        statistics = state_part(state, "statistics.")
        self._statistics = {name: float(value) for name, value in statistics.items()}

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
            for part in (module_kind(name), layer_of(name)):
                if part is not None:
                    protected[part] = protected.get(part, 0) + count
                    sizes[part] = sizes.get(part, 0) + self._sizes[name]
        return {f"protected_{part}": protected[part] / sizes[part] for part in sorted(sizes)}


def module_kind(name: str) -> str:
    """The kind of module a parameter belongs to, told from its name."""
    lowered = name.lower()
    for kind, parts in MODULE_KINDS:
        if any(part in lowered for part in parts):
            return kind
    return "other"


def layer_of(name: str) -> str | None:
    """``layer_<number>`` of the stack's layer, from 0; ``None`` for what is in none."""
    found = LAYER_NUMBER.search(name)
    return f"layer_{found.group(1)}" if found else None


def pack_bits(mask: Tensor) -> Tensor:
    """A flat boolean mask as bytes of eight bits, the first the least, on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), bitorder="little"))


def unpack_bits(packed: Tensor, size: int) -> Tensor:
    """The mask that :func:`pack_bits` packed."""
    bits = np.unpackbits(packed.cpu().numpy(), count=size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))


def _kept_once(name: str, bits: Tensor, kept: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """The bits, or what is kept already of this tensor, if it is the same."""
    same = (mask[name] for mask in kept if name in mask)
    return next((known for known in same if torch.equal(known, bits)), bits)


def _count_bits(packed: Tensor) -> int:
    """How many bits are set."""
    occurrences = np.bincount(packed.numpy(), minlength=256)
    return int(occurrences @ BITS_OF_BYTE)
