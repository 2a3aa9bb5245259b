"""Choosing the top share of all scores without sorting or concatenating them.

Non-negative floats order like their bit patterns read as integers. A histogram of the upper 16
bits finds the bin that holds the threshold, a second one of the lower 16 bits inside that bin finds
the threshold itself: exact counts for any number of scores, in three passes and constant memory
(a radix select). Scores that equal the threshold are taken in the order of the parameters until
the asked number is reached; a score of zero is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

UPPER_BINS = 1 << 15
"""Values of the upper 16 bits of a non-negative float."""

LOWER_BINS = 1 << 16
"""Values of the lower 16 bits."""

INFINITY_KEY = 0x7F800000
"""Bit pattern of infinity, the largest score."""

Keys = Callable[[str], Tensor]
"""Gives the flat int32 sort keys of one tensor of scores by name; computed anew at each call."""


def sort_keys(scores: Tensor, largest: bool = True) -> Tensor:
    """Integers that order like the scores; 0 for what must never be taken.

    Args:
        scores: Flat, float32, not negative, not NaN.
        largest: False reverses the order; zero scores are then the first to be taken.
    """
    keys = (scores + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0
    return keys if largest else INFINITY_KEY + 1 - keys


def select_top(names: list[str], keys: Keys, count: int) -> dict[str, Tensor]:
    """Boolean masks of the ``count`` largest keys over all tensors together.

    Args:
        names: Of the tensors, in the order in which ties are resolved.
        keys: Gives each tensor's sort keys.
        count: How many are taken; fewer only if fewer keys are positive.

    Returns:
        For each name a flat mask.
    """
    count = min(count, sum(int(keys(name).count_nonzero()) for name in names))
    if count == 0:
        return {name: torch.zeros_like(keys(name), dtype=torch.bool) for name in names}
    upper = torch.zeros(UPPER_BINS, dtype=torch.int64)
    for name in names:
        upper += torch.bincount(keys(name) >> 16, minlength=UPPER_BINS).cpu()
    bin_index, above = _threshold_bin(upper, count)
    lower = torch.zeros(LOWER_BINS, dtype=torch.int64)
    for name in names:
        tensor = keys(name)
        inside = tensor[(tensor >> 16) == bin_index]
        lower += torch.bincount(inside & 0xFFFF, minlength=LOWER_BINS).cpu()
    offset, above_offset = _threshold_bin(lower, count - above)
    threshold = (bin_index << 16) + offset
    ties_left = count - above - above_offset
    masks = {}
    for name in names:
        tensor = keys(name)
        mask = tensor > threshold
        equal = tensor == threshold
        ties = int(equal.sum())
        if ties and ties_left > 0:
            if ties > ties_left:
                positions = equal.nonzero().squeeze(1)[:ties_left]
                mask[positions] = True
            else:
                mask |= equal
            ties_left -= min(ties, ties_left)
        masks[name] = mask
    return masks


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


def _threshold_bin(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the ``wanted``-th largest lies, and how many lie in the bins above."""
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, torch.tensor(wanted)))
    position = min(position, len(counts) - 1)
    above = int(from_top[position - 1]) if position else 0
    return len(counts) - 1 - position, above
