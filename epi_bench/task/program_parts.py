"""A program put together from the parts of an answer: what is asked for, and what that uses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from epi_bench.task.python_source import EVERY_NAME, PythonSource, without_uses

_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


def definer(parts: Sequence[PythonSource], name: str) -> int:
    """The last part that defines a name, and not only by an empty function if that can be."""
    definers = [i for i, part in enumerate(parts) if name in part.defines]
    return max(definers, key=lambda i: (name not in parts[i].hollow, i))


def assembled(parts: Sequence[PythonSource], chosen: set[int], names: frozenset[str]) -> str:
    """The chosen parts, after those that define what they use.

    Of the latter, statements that use the program or wait for input are left out: they show or
    try drafts.
    """
    helpers: set[int] = set()
    waiting = sorted(chosen)
    while waiting:
        position = waiting.pop()
        for name in sorted(parts[position].reads):
            provider = _provider(parts, position, name, chosen | helpers)
            if provider is not None:
                helpers.add(provider)
                waiting.append(provider)
    codes = [without_uses(parts[i].code, names | {"input"}) for i in sorted(helpers)]
    return joined([*codes, *(parts[i].code for i in sorted(chosen))])


def _provider(
    parts: Sequence[PythonSource], position: int, name: str, present: set[int]
) -> int | None:
    """The part to add for a name that is read at ``position``: the nearest before it, or after."""
    definers = [i for i, part in enumerate(parts) if name in part.defines]
    if not definers:
        definers = [i for i in range(position) if EVERY_NAME in parts[i].defines]
    if not definers or present.intersection(definers):
        return None
    before = [i for i in definers if i < position]
    return max(before) if before else min(definers)


def joined(codes: Sequence[str]) -> str:
    """Sources one after the other, with ``from __future__`` lines where they must stand."""
    future = dict.fromkeys(line.strip() for code in codes for line in _FUTURE.findall(code))
    if not future:
        return "\n\n".join(codes)
    rest = "\n\n".join(_FUTURE.sub("", code) for code in codes)
    return "\n".join([*future, rest])
