"""Random numbers: each purpose draws from a generator of its own."""

from __future__ import annotations

import random


def seeded_generator(purpose: str, seed: int) -> random.Random:
    """A generator for one purpose; the same seed and purpose give the same draws.

    So a run draws its task order, the mixing of its examples and its batches independently of each
    other: what one of them takes changes nothing for the others.

    Args:
        purpose: What is drawn, in words that no other purpose has.
        seed: The run's seed.

    Example:
        >>> first, again = (seeded_generator("task order", 0) for _ in range(2))
        >>> first.random() == again.random()
        True
    """
    return random.Random(f"{purpose} {seed}")
