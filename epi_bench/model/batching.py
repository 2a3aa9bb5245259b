"""What is in an optimizer step, how it is cut into micro-batches, and how they are padded.

What is in a step is drawn at random. Length only decides which of a step's examples share a
micro-batch, which changes the step's gradient in its last bits and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED_LABEL = -100
"""Label of tokens without loss, as in transformers."""

SPLIT_COST = 96
"""Padding tokens that one more forward and backward pass is worth on a CPU.

Measured with the embedded model: a pass costs about as much as 100 tokens beside its tokens. On a
GPU a pass costs as much as thousands, so there a step is only cut where memory asks for it.
"""


def drawn_steps(count: int, step_size: int, generator: random.Random) -> Iterator[list[int]]:
    """What each optimizer step is made of: positions of its examples, step after step, endless.

    Each pass over the examples is a fresh permutation, cut into steps: every example comes once a
    pass, whatever the sizes, and what is in a step is decided at random, by nothing else. Where
    ``step_size`` does not divide ``count``, the last step of a pass is smaller, as with torch's
    ``DataLoader`` and transformers' ``Trainer``.

    Args:
        count: Examples there are, at least 1.
        step_size: Examples a step, at least 1.
        generator: Source of every draw.
    """
    if count < 1:
        raise ValueError("there are no examples to draw steps from")
    while True:
        positions = generator.sample(range(count), count)
        for start in range(0, count, step_size):
            yield positions[start : start + step_size]


def steps_a_pass(count: int, step_size: int) -> int:
    """Steps of :func:`drawn_steps` in which every example comes once."""
    return -(-count // step_size)


def cut_evenly(
    positions: Sequence[int], lengths: Sequence[int], batch_size: int, processes: int = 1
) -> list[list[list[int]]]:
    """A step's examples as micro-batches of like length, the same number for each process.

    Args:
        positions: The examples of the step.
        lengths: Of all examples, in tokens, by position.
        batch_size: Most examples of a micro-batch.
        processes: Processes that train together.

    Returns:
        For each process its micro-batches. They differ by at most one example in size; those of
        the last processes are empty where there are fewer examples than micro-batches.
    """
    order = sorted(positions, key=lambda position: -lengths[position])
    count = -(-len(order) // (batch_size * processes)) * processes
    smaller, larger = divmod(len(order), count)
    cuts, start = [], 0
    for number in range(count):
        end = start + smaller + (number < larger)
        cuts.append(order[start:end])
        start = end
    return [cuts[rank::processes] for rank in range(processes)]


def cut_by_padding(
    positions: Sequence[int], lengths: Sequence[int], batch_size: int, split_cost: int
) -> list[list[int]]:
    """A step's examples as micro-batches of like length, cut where that costs least.

    The cost of a micro-batch is its rows times its longest example, padding included, and
    ``split_cost``; the sum over all micro-batches is minimal among all cuts of the examples in
    the order of their length.

    Args:
        positions: The examples of the step.
        lengths: Of all examples, in tokens, by position.
        batch_size: Most examples of a micro-batch.
        split_cost: Of each micro-batch, in tokens.
    """
    order = sorted(positions, key=lambda position: -lengths[position])
    best, begins = [0], [0]  # of the first n examples: least cost, where the last cut begins
    for end in range(1, len(order) + 1):
        choices = range(max(end - batch_size, 0), end)
        costs = [best[b] + split_cost + (end - b) * lengths[order[b]] for b in choices]
        least = min(costs)
        best.append(least)
        begins.append(choices[costs.index(least)])
    cuts, end = [], len(order)
    while end:
        cuts.append(order[begins[end] : end])
        end = begins[end]
    return cuts[::-1]


def collate(
    examples: Sequence[EncodedExample], pad_token_id: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Right-padded ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length).

    Where an example has another weight than 1 there is ``weight`` too: one number an example.

    Args:
        examples: At least one.
        pad_token_id: Fills short rows.
        device: Of the tensors.
    """
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
    batch = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
        "labels": torch.tensor(labels, device=device),
    }
    if any(example.weight != 1 for example in examples):
        weights = [example.weight for example in examples]
        batch["weight"] = torch.tensor(weights, dtype=torch.float32, device=device)
    return batch


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """All positions once, longest first, cut into batches: the order for scoring."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
