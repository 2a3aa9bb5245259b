"""Mini logic: who comes where in an order, with four options, in the style of LogiQA."""

from __future__ import annotations

import random

from epi_bench import Example, TaskCard, register_task
from epi_bench.tasks._generated import LICENCE, NAMES, GeneratedTask, conversation

LETTERS = ("A", "B", "C", "D")
COMPARISONS = (
    ("older", "younger", "oldest", "youngest"),
    ("taller", "shorter", "tallest", "shortest"),
    ("faster", "slower", "fastest", "slowest"),
)
"""More, less, most, least."""


@register_task("mini_logic")
class MiniLogic(GeneratedTask):
    """Four people in an order of which only neighbours are compared; one is asked for."""

    card = TaskCard(
        summary="Who is the most or the least of four, from three comparisons; four options",
        ability="logic",
        scoring="choice",
        metric="acc",
        licence=LICENCE,
        max_new_tokens=2,
        chance=25.0,
    )

    def draw(self, generator: random.Random) -> Example:
        """Level 0 tells the comparisons in order, level 1 shuffled, level 2 in both directions."""
        level = generator.randrange(3)
        more, less, most, least = generator.choice(COMPARISONS)
        people = generator.sample(NAMES, 4)
        told = []
        for above, below in zip(people, people[1:], strict=False):
            turned = level == 2 and generator.random() < 0.5
            told.append(
                f"{below} is {less} than {above}" if turned else f"{above} is {more} than {below}"
            )
        if level > 0:
            generator.shuffle(told)
        place, question = generator.choice(((0, most), (3, least)))
        options = generator.sample(people, 4)
        answer = LETTERS[options.index(people[place])]
        listed = " ".join(f"{letter} {name}" for letter, name in zip(LETTERS, options, strict=True))
        prompt = f"{', '.join(told)}. Who is {question}?\n{listed}"
        return Example(conversation(prompt, answer), answer, options=LETTERS, meta={"level": level})
