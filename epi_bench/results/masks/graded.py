"""Where in a model a run's graded protection was: which parts were drawn to earlier values.

A mask holds a weight still or leaves it free. Graded protection draws every weight back with a
stiffness of its own; where most of it lies tells what such a strategy protects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.errors import UserError
from epi_bench.results.record.run_record import RunRecord

LAYER = "layer_"
"""Begins the name of a layer of the stack."""


@dataclass(frozen=True)
class GradedPart:
    """One part of a model: a kind of module, or a layer.

    Attributes:
        name: As the record calls it.
        weights: Share of the trained weights that are in it, in 0..1; the mean over the
            experiences.
        stiffness: Share of all stiffness that is in it, in 0..1, one number for each experience.
    """

    name: str
    weights: float
    stiffness: tuple[float, ...]


@dataclass(frozen=True)
class GradedTrace:
    """Where a run's graded protection was.

    Attributes:
        experiences: Names of the experiences in which weights were drawn to earlier values.
        parts: Kinds of modules in the alphabet's order, then layers from the bottom up.
    """

    experiences: tuple[str, ...]
    parts: tuple[GradedPart, ...]


def trace_graded(record: RunRecord) -> GradedTrace:
    """The shares of a record, part by part.

    Raises:
        UserError: If the run drew no weight to an earlier value, or was made before it was
            measured where.
    """
    points = record.graded_protection
    if not points:
        raise UserError(
            f"run {record.run_id} ({record.strategy.name}) has no graded protection: only "
            "strategies that draw weights back have, from the experience on in which they act; "
            "records of earlier versions do not tell it, so make such a run again with force"
        )
    names = sorted({part for point in points for part in point.parts}, key=_place)
    return GradedTrace(
        experiences=_experience_names(record, [point.experience for point in points]),
        parts=tuple(
            GradedPart(
                name,
                math.fsum(p.parts[name].weights for p in points if name in p.parts) / len(points),
                tuple(p.parts[name].stiffness if name in p.parts else 0.0 for p in points),
            )
            for name in names
        ),
    )


def _experience_names(record: RunRecord, positions: Sequence[int]) -> tuple[str, ...]:
    """What the experiences are called; with their number where a name comes twice."""
    names = [experience.name for experience in record.experiences]
    found = [names[i] if i < len(names) else "" for i in positions]
    if all(found) and len(set(found)) == len(found):
        return tuple(found)
    return tuple(f"{i + 1} {name}".strip() for i, name in zip(positions, found, strict=True))


def _place(part: str) -> tuple[int, str]:
    number = part.removeprefix(LAYER)
    is_layer = part.startswith(LAYER) and number.isdecimal()
    return (int(number), "") if is_layer else (-1, part)
