"""Mini mathematics: word problems with a worked line and a marked answer, in the style of GSM8K."""

from __future__ import annotations

import random

from epi_bench import (
    SYNTHETIC_WORDS,
    Example,
    GeneratedTask,
    TaskCard,
    conversation,
    register_task,
)

NAMES = SYNTHETIC_WORDS.names
THINGS = SYNTHETIC_WORDS.things

EVENTS = ("gets", "buys", "finds")


@register_task("mini_math")
class MiniMath(GeneratedTask):
    """Sums of one-digit numbers told as a story; level 0 stays below ten, level 1 carries."""

    card = TaskCard(
        summary="Word problems of one addition, answered with '#### n'",
        ability="mathematics",
        scoring="teacher_forced",
        metric="exact_match",
        licence="Apache-2.0",
        max_new_tokens=16,
    )

    def draw(self, generator: random.Random) -> Example:
        """A problem with random people, things and numbers."""
        first, second = generator.randint(1, 9), generator.randint(1, 7)
        name, thing = generator.choice(NAMES), generator.choice(THINGS)
        problem = f"{name} has {first} {thing} and {generator.choice(EVENTS)} {second}. How many?"
        answer = f"{first}+{second}\n#### {first + second}"
        level = int(first + second >= 10)
        return Example(conversation(problem, answer), answer, meta={"level": level})
