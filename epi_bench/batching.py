"""Batches of encoded examples: which examples go together, and how they are padded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from epi_bench.chat import EncodedExample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED_LABEL = -100
"""Label of tokens without loss, as in transformers."""

BATCHES_PER_BUCKET = 16
"""Examples are sorted by length inside buckets of so many batches: little padding, much shuffle."""


def shuffled_batches(
    lengths: Sequence[int], batch_size: int, generator: random.Random
) -> Iterator[list[int]]:
    """Positions of the examples of one batch after the other, without end.

    Every example comes once before any comes again. Inside a bucket, examples of like length share
    a batch; the order of the batches is shuffled.

    Args:
        lengths: Length of each example in tokens; not empty.
        batch_size: Examples a batch.
        generator: Source of every draw.
    """
    if not lengths:
        raise ValueError("there are no examples to draw batches from")
    positions = _endless_permutations(len(lengths), generator)
    while True:
        bucket = list(islice(positions, batch_size * BATCHES_PER_BUCKET))
        bucket.sort(key=lambda position: lengths[position])
        batches = [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        generator.shuffle(batches)
        yield from batches


def collate(
    examples: Sequence[EncodedExample], pad_token_id: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Right-padded ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length)."""
    import torch

    longest = max(len(example) for example in examples)
    ids, mask, labels = [], [], []
    for example in examples:
        padding = longest - len(example)
        ids.append([*example.input_ids, *[pad_token_id] * padding])
        mask.append([1] * len(example) + [0] * padding)
        labels.append(
            [
                token if supervised else IGNORED_LABEL
                for token, supervised in zip(example.input_ids, example.supervised, strict=True)
            ]
            + [IGNORED_LABEL] * padding
        )
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
        "labels": torch.tensor(labels, device=device),
    }


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """All positions once, longest first, cut into batches: the order for scoring."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _endless_permutations(count: int, generator: random.Random) -> Iterator[int]:
    while True:
        yield from generator.sample(range(count), count)
