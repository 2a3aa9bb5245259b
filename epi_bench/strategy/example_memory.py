"""Training examples of earlier experiences, kept within a fixed number of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from epi_bench.model.chat.encoded_example import EncodedExample

Policy = Literal["reservoir", "balanced", "loss"]
"""Which examples are kept; see :class:`ExampleMemory`."""

Losses = Callable[[Sequence[EncodedExample]], Sequence[float]]
"""The loss of each of some examples, now."""


class ExampleMemory:
    """A sample of all the examples that have been offered.

    ``reservoir`` keeps each example ever offered with the same probability (Vitter 1985), so a
    large experience has a large part of the memory; ``balanced`` gives each experience the same
    part, and when a new one comes the others drop examples drawn at random. ``loss`` lets examples
    in as ``reservoir`` does, and drops those that the model knows best: each with a probability
    that grows with how far its loss is below the largest one (loss-aware reservoir sampling,
    Buzzega et al. 2020, arXiv 2010.05595), so the largest loss stays. Mislabelled examples have
    large losses, too.

    Offer an example once, not once an epoch.

    Args:
        size: Examples that are kept at most, at least 1.
        policy: Which.

    Attributes:
        examples: Those that are kept; under ``balanced`` in the order of the experiences.

    Example:
        .. code-block:: python

            memory = ExampleMemory(100)
            memory.offer(experience.examples, self.context.generator("memory of experience 0"))
    """

    def __init__(self, size: int, policy: Policy = "reservoir") -> None:
        self.size = size
        self.policy = policy
        self.examples: list[EncodedExample] = []
        self._offered = 0
        self._parts: list[int] = []  # under balanced: examples of each experience

    def __len__(self) -> int:
        return len(self.examples)

    def offer(
        self,
        examples: Sequence[EncodedExample],
        generator: random.Random,
        losses: Losses | None = None,
    ) -> None:
        """Take some or all of an experience's examples in.

        Args:
            examples: All of them.
            generator: Of the draw.
            losses: Under ``loss``: measures those that are kept and those that are offered. Take
                the mean a token, or the length decides.
        """
        if self.policy == "loss":
            if losses is None:
                raise ValueError("a memory by loss must be given the losses")
            self._fill_by_loss(examples, generator, losses)
            return
        if self.policy == "reservoir":
            _fill(self.examples, self.size, examples, self._offered, generator)
            self._offered += len(examples)
            return
        quota = self.size // (len(self._parts) + 1)
        kept: list[EncodedExample] = []
        start, parts = 0, []
        for part in self._parts:
            own = self.examples[start : start + part]
            kept += own if len(own) <= quota else generator.sample(own, quota)
            parts.append(min(part, quota))
            start += part
        new: list[EncodedExample] = []
        _fill(new, quota, examples, 0, generator)
        self.examples = kept + new
        self._parts = [*parts, len(new)]

    def _fill_by_loss(
        self, examples: Sequence[EncodedExample], generator: random.Random, losses: Losses
    ) -> None:
        known = list(losses(self.examples)) if self.examples else []
        for example, loss in zip(examples, losses(examples), strict=True):
            self._offered += 1
            if len(self.examples) < self.size:
                self.examples.append(example)
                known.append(loss)
            elif generator.randrange(self._offered) < self.size:
                victim = _least_lossy(known, generator)
                self.examples[victim], known[victim] = example, loss

    def state_dict(self) -> dict[str, Tensor]:
        """All tokens in a row, their loss mask, the lengths, and what has been offered."""
        state = examples_as_tensors(self.examples) | {"seen": torch.tensor(self._offered)}
        return state | ({"parts": torch.tensor(self._parts)} if self._parts else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        self.examples = examples_from_tensors(state)
        self._offered = int(state["seen"])
        self._parts = state["parts"].tolist() if "parts" in state else []


def _fill(
    kept: list[EncodedExample],
    size: int,
    examples: Sequence[EncodedExample],
    seen: int,
    generator: random.Random,
) -> None:
    """Reservoir sampling: ``kept`` becomes a uniform sample of what was seen and the examples."""
    for example in examples:
        seen += 1
        if len(kept) < size:
            kept.append(example)
        else:
            position = generator.randrange(seen)
            if position < size:
                kept[position] = example


def _least_lossy(losses: Sequence[float], generator: random.Random) -> int:
    """A position, drawn with a probability that grows with how far its loss is below the largest;
    any position where all are equal."""
    largest = max(losses)
    below = [largest - loss for loss in losses]
    weights = below if any(below) else None
    return generator.choices(range(len(losses)), weights)[0]


def examples_as_tensors(examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
    """Examples as tensors: ``input_ids`` and ``supervised`` in a row, and ``lengths``.

    And ``weights``, where an example has another than 1.

    Args:
        examples: Any number.
    """
    ids = [token for example in examples for token in example.input_ids]
    supervised = [flag for example in examples for flag in example.supervised]
    state = {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "supervised": torch.tensor(supervised, dtype=torch.bool),
        "lengths": torch.tensor([len(example) for example in examples], dtype=torch.int32),
    }
    if any(example.weight != 1 for example in examples):
        state["weights"] = torch.tensor([e.weight for e in examples], dtype=torch.float64)
    return state


def examples_from_tensors(state: Mapping[str, Tensor]) -> list[EncodedExample]:
    """What :func:`examples_as_tensors` was given.

    Args:
        state: What it returned; other tensors in it are left alone.
    """
    lengths = state["lengths"].tolist()
    if not lengths:
        return []
    weights = state["weights"].tolist() if "weights" in state else [1.0] * len(lengths)
    rows = zip(
        state["input_ids"].split(lengths),
        state["supervised"].split(lengths),
        weights,
        strict=True,
    )
    return [
        EncodedExample(tuple(ids.tolist()), tuple(flags.tolist()), weight=weight)
        for ids, flags, weight in rows
    ]
