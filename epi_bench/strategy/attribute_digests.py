"""Whether a strategy that took up its state is what the one was that returned it.

``state_dict`` is a promise: everything that later steps depend on is in it. A strategy that forgets
one attribute would go on after an interruption and end with other weights, and nothing would tell.
So a checkpoint holds, beside the state, a digest of every attribute. After ``load_state_dict`` they
are made again, and those that differ are what the state does not hold.

Read are numbers, texts, tensors, lists, tables, sets, random generators, modules beside the model
and the attributes of other objects. Not read: the model itself (the checkpoint holds it), the
context, functions, optimizers, and what ``not_in_state`` of an object's class names.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from epi_bench.isolation.sharding import local
from epi_bench.strategy.generator_state import generator_state

if TYPE_CHECKING:
    from epi_bench.strategy.strategy import Strategy

NOT_READ = "not read"
"""In place of the digest of a function, an optimizer or the like: equal to everything."""

BLOCK = 4096
"""Elements of a large tensor that are summed before they are hashed."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))

WRITTEN_OUT = (
    *PLAIN, bytearray, range, Decimal, Fraction, date, timedelta, PurePath, torch.device,
    torch.dtype, torch.Size,
)  # fmt: skip
"""What its text tells all about."""

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type of as many bytes as an element."""


def attribute_digests(strategy: Strategy, model: nn.Module) -> dict[str, str]:
    """A digest of each attribute of a strategy and of the objects that it keeps.

    Costs about what it costs to read the strategy's tensors once.

    Args:
        strategy: Between two optimizer steps.
        model: The one being trained.

    Returns:
        Digests by path, such as ``_anchor`` or ``_engine.ratio``.
    """
    return _Walk(strategy, model, None).digests


def unreturned_attributes(
    saved: Mapping[str, str], strategy: Strategy, model: nn.Module
) -> list[str]:
    """Attributes that differ from those of the strategy that was saved.

    Args:
        saved: What :func:`attribute_digests` said of that one.
        strategy: After ``load_state_dict``.
        model: The one being trained, with the weights of then.

    Returns:
        Their paths, in alphabetical order; none if ``state_dict`` returns all that is kept.
    """
    now = _Walk(strategy, model, saved).digests
    differing: list[str] = []
    for path in sorted(saved.keys() | now.keys()):
        if any(path.startswith(f"{found}.") for found in differing):
            continue
        before, after = saved.get(path), now.get(path)
        if before != after and NOT_READ not in (before, after):
            differing.append(path)
    return differing


class _Walk:
    """One walk over the attributes of a strategy.

    Args:
        strategy: Where it begins.
        model: The one being trained.
        expected: Paths that another walk found: properties that are computed once and kept
            (``cached_property``) are read here if that one had read them, and only then.
    """

    def __init__(
        self, strategy: Strategy, model: nn.Module, expected: Collection[str] | None
    ) -> None:
        self._expected = expected
        self._context = getattr(strategy, "context", self)  # without one, nothing equals it
        self._modules = {id(module) for module in model.modules()}
        self._model_tensors = {
            local(tensor.detach()).untyped_storage().data_ptr(): name
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if tensor.numel()
        }
        self._visited = {id(strategy)}
        self.digests: dict[str, str] = {}
        self._read_attributes(strategy, "")

    def _read_attributes(self, owner: object, prefix: str) -> None:
        for name, value in sorted(self._attributes(owner, prefix), key=lambda item: item[0]):
            path = prefix + name
            if self._is_not_read(value):
                self.digests[path] = NOT_READ
            elif not _is_object(value):
                self.digests[path] = self._digest(value)
            elif id(value) not in self._visited:
                self._visited.add(id(value))
                self.digests[path] = type(value).__qualname__
                self._read_attributes(value, f"{path}.")

    def _attributes(self, owner: object, prefix: str | None) -> Iterator[tuple[str, Any]]:
        """Names and values, without those that the class of the owner takes out.

        Args:
            owner: Any object.
            prefix: Of its attributes' paths; ``None`` for an object in a collection.
        """
        left_out = getattr(type(owner), "not_in_state", ())
        kept_once = {
            name
            for cls in type(owner).__mro__
            for name, member in vars(cls).items()
            if isinstance(member, cached_property)
        }
        names = {*_instance_names(owner)}
        if self._expected is not None and prefix is not None:
            asked = {name for name in kept_once if prefix + name in self._expected}
            names = names - kept_once | asked
        for name in names - {*left_out}:
            if hasattr(owner, name):
                yield name, getattr(owner, name)

    def _is_not_read(self, value: object) -> bool:
        if value is self._context or id(value) in self._modules:
            return True
        if isinstance(value, torch.optim.Optimizer | type | io.IOBase | random.SystemRandom):
            return True
        if isinstance(value, (*_READ, Iterator)):
            return False
        if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:
            return True
        return not _instance_names(value)

    def _digest(self, value: object) -> str:
        digest = hashlib.sha256()
        self._feed(value, digest.update, ())
        return digest.hexdigest()

    def _feed(self, value: Any, take: Callable[[bytes], None], within: tuple[int, ...]) -> None:
        """Give all that makes a value to a hash function; ``within`` are the values around it."""
        if id(value) in within:
            take(b"<itself>")
        elif self._is_not_read(value):
            take(b"<not read>")
        elif isinstance(value, np.generic):
            take(repr(value.item()).encode())
        elif isinstance(value, Enum):
            take(str(value).encode())
        elif isinstance(value, WRITTEN_OUT):
            take(repr(value).encode())
        elif isinstance(value, Tensor):
            self._feed_tensor(value, take)
        elif isinstance(value, np.ndarray):
            take(f"<array {value.shape} {value.dtype}>".encode())
            take(value.tobytes() if value.dtype != object else repr(value.tolist()).encode())
        elif isinstance(value, torch.Generator | random.Random | np.random.Generator):
            take(generator_state(value).numpy().tobytes())
        else:
            self._feed_parts(value, take, (*within, id(value)))

    def _feed_parts(
        self, value: Any, take: Callable[[bytes], None], within: tuple[int, ...]
    ) -> None:
        if isinstance(value, list | tuple) and all(type(part) in PLAIN for part in value):
            take(f"<{list(value)!r}>".encode())
            return
        if isinstance(value, Mapping):
            parts = [part for item in value.items() for part in item]
        elif isinstance(value, set | frozenset):
            take(f"<set {sorted(self._digest(part) for part in value)}>".encode())
            return
        elif isinstance(value, nn.Module):
            parts = [value.training, dict(value.named_parameters()), dict(value.named_buffers())]
        elif isinstance(value, Iterator):
            take(os.urandom(16))  # nothing can be resumed in the middle of one
            return
        elif isinstance(value, list | tuple | deque):
            parts = list(value)
        else:
            named = sorted(self._attributes(value, None), key=lambda item: item[0])
            parts = [type(value).__qualname__, *(part for item in named for part in item)]
        take(f"<{len(parts)}".encode())
        for part in parts:
            take(b",")
            self._feed(part, take, within)
        take(b">")

    def _feed_tensor(self, tensor: Tensor, take: Callable[[bytes], None]) -> None:
        tensor = tensor.detach()
        if tensor.is_nested:
            for part in tensor.unbind():
                self._feed_tensor(part, take)
            return
        take(f"<tensor {tuple(tensor.shape)} {tensor.dtype}>".encode())
        if tensor.is_meta:
            return
        if tensor.is_quantized:
            tensor = tensor.int_repr()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        tensor = local(tensor)
        name = self._model_tensors.get(tensor.untyped_storage().data_ptr())
        if name is not None:
            take(f"<of the model {name} {tensor.storage_offset()} {tensor.stride()}>".encode())
            return
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        flat = tensor.contiguous().view(-1)
        bits = flat.view(WORDS[flat.element_size()])
        even = bits.numel() // BLOCK * BLOCK if bits.numel() > 16 * BLOCK else 0
        for part in (bits[:even].view(-1, BLOCK).sum(dim=1, dtype=torch.int64), bits[even:]):
            take(part.cpu().numpy().tobytes())


_READ = (
    *WRITTEN_OUT, Enum, Tensor, np.ndarray, np.generic, torch.Generator, random.Random,
    np.random.Generator, Mapping, list, tuple, deque, set, frozenset, SimpleNamespace, nn.Module,
)  # fmt: skip
"""What is read whatever module it is from."""


def _is_object(value: object) -> bool:
    """Whether its attributes get digests of their own: neither a value nor a collection."""
    return not isinstance(value, (*_READ, Iterator))


def _instance_names(owner: object) -> list[str]:
    """Names of the attributes that are the object's own."""
    names = [*getattr(owner, "__dict__", ())]
    for cls in type(owner).__mro__:
        slots = vars(cls).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]
