"""Mini chat: conversations whose last answer needs the earlier turns, in the style of UltraChat."""

from __future__ import annotations

import random

from epi_bench import Example, TaskCard, register_task
from epi_bench.tasks._generated import (
    COLOURS,
    LICENCE,
    NAMES,
    THINGS,
    GeneratedTask,
    conversation,
)


@register_task("mini_chat")
class MiniChat(GeneratedTask):
    """The first turn tells who has what, later turns ask for it, the last one by a pronoun."""

    card = TaskCard(
        summary="Multi-turn conversations that end with a question about what was said",
        ability="chat",
        scoring="teacher_forced",
        metric="exact_match",
        licence=LICENCE,
        max_new_tokens=16,
    )

    def draw(self, generator: random.Random) -> Example:
        """A conversation about two to four people."""
        level = generator.randrange(3)
        people = generator.sample(NAMES, level + 2)
        colours = generator.sample(COLOURS, len(people))
        things = generator.sample(THINGS, len(people))
        told = [
            f"{name} has {colour} {thing}"
            for name, colour, thing in zip(people, colours, things, strict=True)
        ]
        turns = [", ".join(told) + ".", "I see."]
        asked = generator.randrange(len(people))
        name, colour, thing = people[asked], colours[asked], things[asked]
        if generator.random() < 0.5:
            turns += [f"Who has {thing}?", f"{name} has."]
            last, answer = "What colour?", f"The {thing} of {name} are {colour}."
        else:
            last, answer = f"What does {name} have?", f"{name} has the {colour} {thing}."
        return Example(conversation(*turns, last, answer), answer, meta={"level": level})
