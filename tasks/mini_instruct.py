"""Mini instructions: an instruction and an input to transform, in the style of Alpaca."""

from __future__ import annotations

import random
from collections.abc import Callable

from epi_bench import (
    SYNTHETIC_WORDS,
    Example,
    GeneratedTask,
    TaskCard,
    conversation,
    register_task,
)

OPPOSITES = SYNTHETIC_WORDS.opposites

WORDS = tuple(word for pair in OPPOSITES[:6] for word in pair)

TRANSFORMATIONS: tuple[tuple[str, Callable[[list[str]], list[str]]], ...] = (
    ("Reverse the words.", lambda words: words[::-1]),
    ("Put not before each word.", lambda words: [part for word in words for part in ("not", word)]),
    ("Write the first word twice.", lambda words: [words[0], *words]),
)

SHORTEST, LONGEST = 2, 3


@register_task("mini_instruct")
class MiniInstruct(GeneratedTask):
    """Three transformations of a list of two or three adjectives; longer lists are harder."""

    card = TaskCard(
        summary="Instructions that reverse, negate or double the words of an input",
        ability="instructions",
        scoring="teacher_forced",
        metric="exact_match",
        licence="Apache-2.0",
        max_new_tokens=24,
    )

    def draw(self, generator: random.Random) -> Example:
        """A transformation of random words."""
        instruction, transform = generator.choice(TRANSFORMATIONS)
        words = generator.sample(WORDS, generator.randint(SHORTEST, LONGEST))
        answer = " ".join(transform(words))
        prompt = f"{instruction}\nInput: {' '.join(words)}"
        return Example(conversation(prompt, answer), answer, meta={"level": len(words) - SHORTEST})
