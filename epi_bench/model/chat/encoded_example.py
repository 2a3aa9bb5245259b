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

    @property
    def last_answer(self) -> slice:
        """The last stretch of tokens that carry loss; empty, at the end, if none does.

        >>> EncodedExample((5, 6, 7, 8), (True, False, True, False)).last_answer
        slice(2, 3, None)
        """
        end = len(self)
        while end > 0 and not self.supervised[end - 1]:
            end -= 1
        if end == 0:
            return slice(len(self), len(self))
        start = end - 1
        while start > 0 and self.supervised[start - 1]:
            start -= 1
        return slice(start, end)


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
