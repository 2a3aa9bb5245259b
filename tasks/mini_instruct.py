"""Mini instructions: an instruction and an input to transform, in the style of Alpaca."""

from __future__ import annotations

import random
from collections.abc import Callable

from epi_bench import Example, TaskCard, register_task
from epi_bench.tasks._generated import (
    COLOURS,
    LICENCE,
    NAMES,
    THINGS,
    GeneratedTask,
    conversation,
)

WORDS = (*NAMES, *THINGS, *COLOURS)

TRANSFORMATIONS: tuple[tuple[str, Callable[[list[str]], list[str]]], ...] = (
    ("Reverse the words.", lambda words: words[::-1]),
    ("Swap the first and the last word.", lambda words: [words[-1], *words[1:-1], words[0]]),
    ("Move the last word to the front.", lambda words: [words[-1], *words[:-1]]),
    ("Move the first word to the end.", lambda words: [*words[1:], words[0]]),
    ("Write each word twice.", lambda words: [word for word in words for _ in range(2)]),
    ("Leave out the first word.", lambda words: words[1:]),
    ("Leave out the last word.", lambda words: words[:-1]),
    ("Write every other word.", lambda words: words[::2]),
)

SHORTEST, LONGEST = 2, 6


@register_task("mini_instruct")
class MiniInstruct(GeneratedTask):
    """Eight transformations of a list of two to six words."""

    card = TaskCard(
        summary="Instructions that reorder, double or leave out the words of an input",
        ability="instructions",
        scoring="teacher_forced",
        metric="exact_match",
        licence=LICENCE,
        max_new_tokens=32,
    )

    def draw(self, generator: random.Random) -> Example:
        """A transformation of random words."""
        instruction, transform = generator.choice(TRANSFORMATIONS)
        words = generator.sample(WORDS, generator.randint(SHORTEST, LONGEST))
        answer = " ".join(transform(words))
        prompt = f"{instruction}\nInput: {' '.join(words)}"
        return Example(conversation(prompt, answer), answer, meta={"level": len(words) - SHORTEST})
