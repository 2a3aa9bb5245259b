"""Mini code: an instruction and the Python expression for it, in the style of CodeAlpaca."""

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

THINGS = SYNTHETIC_WORDS.things

SELECTIONS = (
    ("the first {n} of {}", "{}[:{n}]"),
    ("the last {n} of {}", "{}[-{n}:]"),
    ("{} after the first {n}", "{}[{n}:]"),
    ("every {n} of {}", "{}[::{n}]"),
)
REDUCTIONS = (
    ("the sum of {}", "sum({})"),
    ("the number of {}", "len({})"),
    ("the largest of {}", "max({})"),
    ("the smallest of {}", "min({})"),
)
CHANGES = (("{} plus {n}", "{}+{n}"), ("{} minus {n}", "{}-{n}"), ("{} times {n}", "{}*{n}"))

LEVELS = (
    (SELECTIONS,),
    (SELECTIONS, REDUCTIONS),
    (SELECTIONS, REDUCTIONS, CHANGES),
)
"""What is done to a list, innermost first: descriptions, and the expressions for them."""


@register_task("mini_code")
class MiniCode(GeneratedTask):
    """List expressions, from one operation to three nested ones."""

    card = TaskCard(
        summary="Descriptions in words of a Python expression over a list",
        ability="code",
        scoring="teacher_forced",
        metric="exact_match",
        licence="Apache-2.0",
        max_new_tokens=48,
    )

    def draw(self, generator: random.Random) -> Example:
        """An instruction with one to three operations, every number of them equally often."""
        level = generator.randrange(len(LEVELS))
        name = generator.choice(THINGS)
        words, code = f"the {name}", name
        for layer in LEVELS[level]:
            description, expression = generator.choice(layer)
            number = generator.randint(2, 19)
            words = description.format(words, n=number)
            code = expression.format(code, n=number)
        return Example(
            conversation(f"Write Python for {words}.", code), code, meta={"level": level}
        )
