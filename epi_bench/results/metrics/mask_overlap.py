"""How alike two masks are, and how alike they would be by chance."""

from __future__ import annotations

from collections.abc import Collection


def jaccard(first: Collection[int], second: Collection[int]) -> float | None:
    """Overlap of two protected sets: |A & B| / |A | B|; ``None`` if both are empty.

    Source: the mask drift of EPI (arXiv 2604.14010). Read it beside :func:`jaccard_by_chance`.

    Args:
        first: Positions of the protected parameters.
        second: The same at another time.
    """
    one, other = set(first), set(second)
    union = len(one | other)
    return len(one & other) / union if union else None


def jaccard_by_chance(ratio: float) -> float | None:
    """The overlap of two independent random sets that each hold the share p: p / (2 - p).

    ``None`` for p = 0, where the sets are empty.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio={ratio} is not a share: it must lie between 0 and 1")
    return ratio / (2 - ratio) if ratio else None
