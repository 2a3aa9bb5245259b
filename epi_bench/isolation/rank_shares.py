"""How many elements each tensor gives when scores are ranked within their own tensor."""

from __future__ import annotations

from collections.abc import Mapping


def share_by_rank(
    sizes: Mapping[str, int], positive: Mapping[str, int], count: int
) -> dict[str, int]:
    """How many elements each tensor gives when all are ranked within their own tensor.

    A score's rank divided by its tensor's size is its normalised score, so one global threshold t
    takes the top share 1 - t of each tensor, but never a zero: ``min(positive, (1 - t) size)``.

    Args:
        sizes: Elements of each tensor.
        positive: Positive scores of each tensor.
        count: Elements to take in all.

    >>> share_by_rank({"a": 100, "b": 300}, {"a": 100, "b": 300}, 200)
    {'a': 50, 'b': 150}

    Returns:
        Elements to take of each tensor; they sum to ``min(count, sum(positive))``.
    """
    wanted = min(count, sum(positive.values()))
    share = _common_share(sizes, positive, wanted)
    exact = {name: min(float(positive[name]), share * size) for name, size in sizes.items()}
    taken = {name: min(int(value), positive[name]) for name, value in exact.items()}
    missing = wanted - sum(taken.values())
    by_remainder = sorted(sizes, key=lambda name: taken[name] - exact[name])
    while missing > 0:
        for name in by_remainder:
            if missing > 0 and taken[name] < positive[name]:
                taken[name] += 1
                missing -= 1
    return taken


def _common_share(sizes: Mapping[str, int], positive: Mapping[str, int], wanted: int) -> float:
    """The share s with ``sum(min(positive, s * size)) == wanted``."""
    full = 0
    remaining = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: positive[name] / max(sizes[name], 1)):
        share = (wanted - full) / remaining if remaining else 0.0
        if share * sizes[name] <= positive[name]:
            return share
        full += positive[name]
        remaining -= sizes[name]
    return 1.0
