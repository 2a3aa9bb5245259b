"""Random numbers: each purpose draws from a generator of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def kept_random_states() -> Iterator[None]:
    """The global generators of ``random`` and numpy are afterwards what they were.

    For other libraries' code that draws from them in passing.
    """
    import numpy

    states = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
