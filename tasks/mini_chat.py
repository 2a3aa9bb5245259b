"""Mini chat: conversations whose last answer needs the earlier turns, in the style of UltraChat."""

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

COLOURS = SYNTHETIC_WORDS.colours
NAMES = SYNTHETIC_WORDS.names
THINGS = SYNTHETIC_WORDS.things


@register_task("mini_chat")
class MiniChat(GeneratedTask):
    """Asked back what was told (level 0), what was corrected (1), what one of two has (2)."""

    card = TaskCard(
        summary="Multi-turn conversations that end with a question about what was said",
        ability="chat",
        scoring="teacher_forced",
        metric="exact_match",
        licence="Apache-2.0",
        max_new_tokens=16,
    )

    def draw(self, generator: random.Random) -> Example:
        """A conversation of a random level."""
        level = generator.choice((0, 0, 1, 1, 2))
        turns, answer = (_told, _corrected, _one_of_two)[level](generator)
        return Example(conversation(*turns, answer), answer, meta={"level": level})


def _told(generator: random.Random) -> tuple[list[str], str]:
    name, colour, thing = map(generator.choice, (NAMES, COLOURS, THINGS))
    question, answer = generator.choice(
        (
            ("Who has them?", f"It is {name}."),
            ("Which colour?", f"They are {colour}."),
            ("What are they?", f"They are {thing}."),
        )
    )
    return [f"{name} has {colour} {thing}.", "I see.", question], answer


def _corrected(generator: random.Random) -> tuple[list[str], str]:
    name, thing = generator.choice(NAMES), generator.choice(THINGS)
    before, after = generator.sample(COLOURS, 2)
    question, colour = generator.choice((("Which colour now?", after), ("And before?", before)))
    told = f"{name} has {before} {thing}."
    return [told, "I see.", f"No, {after} ones.", "Oh.", question], f"They are {colour}."


def _one_of_two(generator: random.Random) -> tuple[list[str], str]:
    people, things = generator.sample(NAMES, 2), generator.sample(THINGS, 2)
    asked = generator.randrange(2)
    told = f"{people[0]} has {things[0]}, {people[1]} has {things[1]}."
    return [told, "I see.", f"What about {people[asked]}?"], f"They are {things[asked]}."
