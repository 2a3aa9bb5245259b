"""What the generated ``mini`` tasks share: their words, and how a data set is drawn.

The five tasks speak of the same people and things on purpose. A model cannot keep them apart by
their vocabulary, so learning one disturbs the others, as it does between real data sets.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from epi_bench import (
    Example,
    Message,
    Split,
    Task,
)

NAMES = (
    *("Ann", "Ben", "Cal", "Dan", "Eve", "Fay", "Gus", "Ida"),
    *("Jon", "Kim", "Leo", "Mia", "Ned", "Pam", "Ray", "Sue"),
)
THINGS = (
    *("apples", "books", "cards", "coins", "cups", "dolls", "eggs", "hats"),
    *("jars", "keys", "maps", "nuts", "pens", "pins", "rings", "toys"),
)
COLOURS = ("red", "blue", "green", "black", "white", "pink", "gold", "grey")
OPPOSITES = (
    *(("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("old", "new")),
    *(("rich", "poor"), ("dark", "light"), ("wet", "dry"), ("hard", "soft"), ("loud", "quiet")),
    *(("full", "empty"), ("high", "low"), ("near", "far"), ("thick", "thin"), ("clean", "dirty")),
)

LICENCE = "Apache-2.0"


def conversation(*contents: str) -> tuple[Message, ...]:
    """Messages of user and assistant in turn, the user first."""
    roles = ("user", "assistant")
    return tuple(
        Message(role=roles[turn % 2], content=content) for turn, content in enumerate(contents)
    )


class GeneratedTask(Task):
    """A task whose examples are drawn by a seeded generator; nothing is read from disk.

    The data depend on the task's name alone. All examples of a task differ in their prompts, so
    train and test are disjoint and each prompt has one accepted answer.

    Attributes:
        train_count: Examples of the split ``train``.
        test_count: Examples of the split ``test``.
    """

    train_count: ClassVar[int] = 2000
    test_count: ClassVar[int] = 200

    @abstractmethod
    def draw(self, generator: random.Random) -> Example:
        """One random example; every draw comes from ``generator``."""

    def examples(self, split: Split) -> Sequence[Example]:
        """All examples of a split, the same ones at every call."""
        generator = random.Random(f"{self.name} examples")
        wanted = self.train_count + self.test_count
        by_prompt: dict[tuple[str, ...], Example] = {}
        while len(by_prompt) < wanted:
            example = self.draw(generator)
            prompt = tuple(message["content"] for message in example.prompt)
            by_prompt.setdefault(prompt, example)
        drawn = list(by_prompt.values())
        # Prompts of a small family are used up early; only after shuffling are the splits alike.
        generator.shuffle(drawn)
        return drawn[: self.test_count] if split == "test" else drawn[self.test_count :]
