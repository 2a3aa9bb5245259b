"""A conversation as token ids with a loss mask, and what was left out on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.model.chat.turn_encoding import Range


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A conversation as tokens, with those that carry loss.

    >>> example = EncodedExample((5, 6, 7), (False, True, True))
    >>> len(example), example.supervised_tokens
    (3, 2)

    Attributes:
        input_ids: Token ids of the whole conversation.
        supervised: For each token, whether the model is trained to predict it.
        cut: Tokens of the prompt that were left out, so that the rest fits (in scoring).
        weight: What the loss of its tokens is multiplied by in training, at least 0.
    """

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    cut: int = 0
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised_tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(self.supervised)


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """What happened to a data set while it was encoded.

    Attributes:
        encoded: Examples that can be trained on.
        truncated: Examples among them that were cut to ``max_length``.
        unsupervised: Examples left out because truncation cut off everything supervised.
    """

    encoded: int
    truncated: int
    unsupervised: int


def encoded_example(ids: Sequence[int], ranges: Sequence[Range], cut: int = 0) -> EncodedExample:
    """An example whose tokens in ``ranges`` are supervised.

    Args:
        ids: All tokens.
        ranges: From and to, for each supervised stretch.
        cut: Tokens of the prompt that are not among ``ids`` any more.
    """
    supervised = [False] * len(ids)
    for start, end in ranges:
        supervised[start:end] = [True] * (end - start)
    return EncodedExample(tuple(ids), tuple(supervised), cut)
