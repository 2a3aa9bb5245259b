"""Mini mathematics: word problems with a worked line and a marked answer, in the style of GSM8K."""

from __future__ import annotations

import random

from epi_bench import Example, TaskCard, register_task
from epi_bench.tasks._generated import LICENCE, NAMES, THINGS, GeneratedTask, conversation

GAINS = ("buys {count} more", "gets {count} from {other}")
LOSSES = ("loses {count}", "gives {count} to {other}")

LEVELS = (((1, 9), (1, 9)), ((10, 49), (1, 9)), ((10, 49), (10, 49)))
"""Ranges of the two operands; each level is drawn equally often."""


@register_task("mini_math")
class MiniMath(GeneratedTask):
    """Addition and subtraction told as a story, with one- and two-digit operands."""

    card = TaskCard(
        summary="Word problems of one addition or subtraction, answered with '#### n'",
        ability="mathematics",
        scoring="teacher_forced",
        metric="exact_match",
        licence=LICENCE,
        max_new_tokens=24,
    )

    def draw(self, generator: random.Random) -> Example:
        """A problem of a random level."""
        level = generator.randrange(len(LEVELS))
        first, second = (generator.randint(*span) for span in LEVELS[level])
        name, other = generator.sample(NAMES, 2)
        thing = generator.choice(THINGS)
        gain = generator.random() < 0.5
        if not gain and second > first:
            first, second = second, first
        event = generator.choice(GAINS if gain else LOSSES)
        told = event.format(other=other, count=second)
        result = first + second if gain else first - second
        problem = f"{name} has {first} {thing} and {told}. How many now?"
        worked = f"{first}{'+' if gain else '-'}{second}={result}"
        answer = f"{worked}\n#### {result}"
        return Example(conversation(problem, answer), answer, meta={"level": level})
