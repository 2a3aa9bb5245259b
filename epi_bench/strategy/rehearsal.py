"""Old examples among new ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.model.chat.encoded_example import EncodedExample


def with_replayed(
    own: Sequence[EncodedExample],
    memory: Sequence[EncodedExample],
    share: float,
    generator: random.Random,
) -> list[EncodedExample]:
    """An experience's examples and as many of a memory as make up a share of all.

    Each example of the memory comes as often as any other, or once more.

    Args:
        own: The experience's.
        memory: What is replayed; nothing is if it is empty.
        share: Of the replayed ones among all, in [0, 1).
        generator: Of the draw.

    Example:
        >>> from epi_bench import EncodedExample
        >>> new, old = EncodedExample((1, 2), (False, True)), EncodedExample((3, 4), (False, True))
        >>> [e.input_ids[0] for e in with_replayed([new] * 3, [old], 0.5, random.Random(0))]
        [1, 1, 1, 3, 3, 3]
    """
    wanted = round(len(own) * share / (1 - share)) if memory else 0
    replayed: list[EncodedExample] = []
    while len(replayed) < wanted:
        replayed += generator.sample(memory, len(memory))
    return [*own, *replayed[:wanted]]
