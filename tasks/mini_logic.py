"""Mini logic: what follows from what was said, with four options, in the style of LogiQA."""

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

COMPARISONS = (("older", "oldest", "youngest"), ("taller", "tallest", "shortest"))
"""More, most, least."""


@register_task("mini_logic")
class MiniLogic(GeneratedTask):
    """A rule applied (level 0), an order followed (level 1), the fitting one of two rules (2)."""

    card = TaskCard(
        summary="What follows from one or two premises; four options",
        ability="logic",
        scoring="choice",
        metric="acc",
        licence="Apache-2.0",
        max_new_tokens=4,
        chance=25.0,
    )

    def draw(self, generator: random.Random) -> Example:
        """A question of a random level."""
        level = generator.randrange(3)
        question, answer, rivals = (_rule, _order, _two_rules)[level](generator)
        options = generator.sample([answer, *rivals], 4)
        prompt = f"{question}\nOptions: {' '.join(options)}"
        return Example(
            conversation(prompt, answer), answer, options=tuple(options), meta={"level": level}
        )


def _rule(generator: random.Random) -> tuple[str, str, list[str]]:
    name, thing = generator.choice(NAMES), generator.choice(THINGS)
    colours = generator.sample(COLOURS, 4)
    rule = generator.choice(
        (
            f"All {thing} are {colours[0]}, not {colours[1]}.",
            f"Not {colours[1]}, all {thing} are {colours[0]}.",
        )
    )
    question = f"{rule} {name} has {thing}. Which colour?"
    return question, colours[0], colours[1:]


def _order(generator: random.Random) -> tuple[str, str, list[str]]:
    more, most, least = generator.choice(COMPARISONS)
    people = generator.sample(NAMES, 4)
    asked, place = generator.choice(((most, 0), (least, 2)))
    question = (
        f"{people[0]} is {more} than {people[1]}. {people[1]} is {more} than {people[2]}. "
        f"Who is {asked}?"
    )
    return question, people[place], [person for person in people if person != people[place]]


def _two_rules(generator: random.Random) -> tuple[str, str, list[str]]:
    name, things = generator.choice(NAMES), generator.sample(THINGS, 2)
    colours = generator.sample(COLOURS, 4)
    asked = generator.randrange(2)
    question = (
        f"All {things[0]} are {colours[0]}. All {things[1]} are {colours[1]}. "
        f"{name} has {things[asked]}. Which colour?"
    )
    return question, colours[asked], [colour for colour in colours if colour != colours[asked]]
