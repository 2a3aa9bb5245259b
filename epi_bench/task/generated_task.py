"""A kind of task: examples drawn by a seeded generator, as in the shipped ``mini`` tasks."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epi_bench.task.example import Example
from epi_bench.task.rows.source import Split
from epi_bench.task.task import Task


@dataclass(frozen=True, slots=True)
class Words:
    """Words to make examples of.

    Attributes:
        names: Of people.
        things: Of countable things, in the plural.
        colours: Of things.
        opposites: Pairs of adjectives.
    """

    names: tuple[str, ...]
    things: tuple[str, ...]
    colours: tuple[str, ...]
    opposites: tuple[tuple[str, str], ...]


SYNTHETIC_WORDS = Words(
    names=(
        *("Ann", "Ben", "Cal", "Dan", "Eve", "Fay", "Gus", "Ida"),
        *("Jon", "Kim", "Leo", "Mia", "Ned", "Pam", "Ray", "Sue"),
    ),
    things=(
        *("apples", "books", "cards", "coins", "cups", "dolls", "eggs", "hats"),
        *("jars", "keys", "maps", "nuts", "pens", "pins", "rings", "toys"),
    ),
    colours=("red", "blue", "green", "black", "white", "pink", "gold", "grey"),
    opposites=(
        *(("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("old", "new")),
        *(("rich", "poor"), ("dark", "light"), ("wet", "dry"), ("hard", "soft")),
        *(("loud", "quiet"), ("full", "empty"), ("high", "low"), ("near", "far")),
        *(("thick", "thin"), ("clean", "dirty")),
    ),
)
"""What the ``mini`` tasks speak of, all five on purpose: a model cannot keep them apart by their
vocabulary, so learning one disturbs the others, as it does between real data sets."""


class GeneratedTask(Task):
    """A task whose examples are drawn by a seeded generator; nothing is read from disk.

    The data depend on the task's name alone. All examples of a task differ in their prompts, so
    train and test are disjoint and each prompt has one accepted answer.

    .. code-block:: python

        @register_task("sums")
        class Sums(GeneratedTask):
            card = TaskCard("add", "math", "teacher_forced", "exact_match", "Apache-2.0")

            def draw(self, generator):
                a, b = generator.randint(0, 99), generator.randint(0, 99)
                return Example(conversation(f"{a} + {b} =", str(a + b)), str(a + b))

    Attributes:
        train_count: Examples of the split ``train``.
        test_count: Examples of the split ``test``. :meth:`draw` must be able to make at least
            ``train_count + test_count`` different prompts.
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
