"""A mask of one bit a weight, and writing values back through it without a branch.

Copying values where a mask of booleans is true takes a branch for every element, which a processor
guesses wrongly half of the time when half of the weights are protected. Here a bit is spread over
the whole word of its weight by two shifts, and ``w ^= (w ^ saved) & spread`` sets exactly the
protected words, whatever bits they hold (NaN and -0.0 included).

The bits lie so that the shifts are the same for whole rows: a block of ``bits x width`` weights has
``width`` words, and bit k of word j belongs to weight ``k * width + j``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type of as many bytes as a weight."""

CPU_BLOCK = 1 << 18
"""Weights worked on together on the CPU: they and what is computed of them stay in its cache."""

GPU_BLOCK = 1 << 24
"""Weights worked on together elsewhere, where starting an operation is what costs."""


class BitMask:
    """A flat boolean mask as bits.

    Args:
        mask: Flat, boolean.
        element_size: Bytes of a weight: 1, 2, 4 or 8.
    """

    def __init__(self, mask: Tensor, element_size: int) -> None:
        self._type = WORDS[element_size]
        self._bits = 8 * element_size
        self._block = CPU_BLOCK if mask.device.type == "cpu" else GPU_BLOCK
        self._even = mask.numel() // self._bits * self._bits
        self._rest = mask[self._even :].clone()
        self._words = torch.empty(self._even // self._bits, dtype=self._type, device=mask.device)
        shifts = torch.arange(self._bits, dtype=self._type, device=mask.device).unsqueeze(1)
        for start, stop, words in self._blocks():
            spread = mask[start:stop].view(self._bits, -1).to(self._type)
            torch.sum(spread.bitwise_left_shift_(shifts), dim=0, dtype=self._type, out=words)

    def write_back(self, flat: Tensor, values: Tensor) -> None:
        """Set the weights whose bit is set to their values, bit for bit.

        Args:
            flat: The weights, of the size of the mask; changed in place.
            values: For every weight one, of the same type.
        """
        weights, saved = flat.view(self._type), values.view(self._type)
        shifts = self._shifts()
        for start, stop, words in self._blocks():
            here = weights[start:stop].view(self._bits, -1)
            spread = torch.bitwise_left_shift(words, shifts)
            spread.bitwise_right_shift_(self._bits - 1)
            difference = here ^ saved[start:stop].view(self._bits, -1)
            here.bitwise_xor_(difference.bitwise_and_(spread))
        if self._rest.numel():
            rest = weights[self._even :]
            rest.copy_(torch.where(self._rest, saved[self._even :], rest))

    def count_changed(self, flat: Tensor, values: Tensor) -> int:
        """How many weights whose bit is set differ from their values in any bit.

        Args:
            flat: The weights, of the size of the mask.
            values: For every weight one, of the same type.
        """
        weights, saved = flat.view(self._type), values.view(self._type)
        shifts = self._shifts()
        changed = 0
        for start, stop, words in self._blocks():
            spread = torch.bitwise_left_shift(words, shifts)
            spread.bitwise_right_shift_(self._bits - 1)
            here = weights[start:stop].view(self._bits, -1)
            difference = here ^ saved[start:stop].view(self._bits, -1)
            changed += int(difference.bitwise_and_(spread).count_nonzero())
        rest = weights[self._even :] != saved[self._even :]
        return changed + int((rest & self._rest).sum())

    def mask(self) -> Tensor:
        """The flat boolean mask."""
        found = torch.empty(
            self._even + self._rest.numel(), dtype=torch.bool, device=self._rest.device
        )
        shifts = self._shifts()
        for start, stop, words in self._blocks():
            torch.lt(
                torch.bitwise_left_shift(words, shifts),
                0,
                out=found[start:stop].view(self._bits, -1),
            )
        found[self._even :] = self._rest
        return found

    def bytes(self) -> int:
        """Bytes held."""
        return self._words.numel() * self._words.element_size() + self._rest.numel()

    def _shifts(self) -> Tensor:
        """A column that brings bit k to the sign, in row k."""
        descending = torch.arange(self._bits - 1, -1, -1, device=self._words.device)
        return descending.to(self._type).unsqueeze(1)

    def _blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """First weight, the one after the last, and the words of each block."""
        for start in range(0, self._even, self._block):
            stop = min(start + self._block, self._even)
            yield start, stop, self._words[start // self._bits : stop // self._bits]
