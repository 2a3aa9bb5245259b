"""Streams: the order in which a model meets the tasks.

A stream turns task names into a list of experiences; the training loop goes through them one by
one and never looks back. An experience says what is trained and when the model is scored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

from pydantic import JsonValue

from epi_bench.errors import UserError, foreign_code, short_repr
from epi_bench.foreign_text import for_terminal
from epi_bench.plugins.registry import Registry
from epi_bench.spec.randomness import seeded_generator

Order = Literal["given", "reversed", "random"]
Mixing = Literal["concat", "interleave_under", "interleave_over"]


@dataclass(frozen=True, slots=True)
class ExperiencePlan:
    """What one experience trains on, before any data is loaded.

    Attributes:
        name: Shown in progress and tables.
        tasks: The tasks trained in this experience, in order.
        budget: Its share of the training budget, in units of one task's budget.
        evaluations: At how many equally spaced points the model is scored; the last one is the
            experience's end.
        mixing: How the examples of several tasks are combined.
        weights: Sampling weight of each task in ``tasks`` (interleaving only).
    """

    name: str
    tasks: tuple[str, ...]
    budget: float = 1.0
    evaluations: int = 1
    mixing: Mixing = "concat"
    weights: tuple[float, ...] = ()


LARGEST_AMOUNT = 1e9
"""Of a budget or a weight: a longer training would never end."""

StreamBuilder = Callable[..., list[ExperiencePlan]]
"""Called with the ordered task names and the stream's options as keyword arguments."""


MOST_REPEATS = 100
"""How often all examples may be seen, in number, while an experience is mixed."""

MOST_EXPERIENCES = 10_000
"""Experiences that a stream may have; a builder that never ends stops here."""


def _problem(item: object) -> str | None:
    return None if callable(item) else "is not a function that builds a stream"


STREAMS: Registry[StreamBuilder] = Registry("stream", group="epi_bench.streams", problem=_problem)

BuilderType = TypeVar("BuilderType", bound=StreamBuilder)


def register_stream(name: str) -> Callable[[BuilderType], BuilderType]:
    """Decorator that makes a function known as the stream ``name``.

    The function gets the tuple of the run's task names, in order, and the stream's options as
    keyword arguments. It returns a list of :class:`ExperiencePlan`, which are trained one after
    the other. Its parameters after the first are the options that a user may set: annotate them
    and describe them in an ``Args`` section.

    Args:
        name: Letters, digits and underscores; not the name of another stream.

    Raises:
        UserError: If the name is taken or not usable.

    Example:
        Every task twice, with half of its budget each time::

            @register_stream("twice")
            def twice(tasks: Sequence[str]) -> list[ExperiencePlan]:
                '''All tasks once, then all of them again.'''
                return [ExperiencePlan(task, (task,), budget=0.5) for task in [*tasks, *tasks]]
    """
    return STREAMS.register(name)


def order_tasks(tasks: Sequence[str], order: Order, seed: int) -> list[str]:
    """The tasks in the order of the stream.

    Args:
        tasks: As the user gave them.
        order: ``given``, ``reversed``, or ``random``: a permutation drawn from ``seed`` alone.
        seed: The run's seed.
    """
    if order == "reversed":
        return list(reversed(tasks))
    if order == "random":
        shuffled = list(tasks)
        seeded_generator("task order", seed).shuffle(shuffled)
        return shuffled
    return list(tasks)


@STREAMS.register("sequential")
def sequential(tasks: Sequence[str]) -> list[ExperiencePlan]:
    """One experience a task, one after the other."""
    return [ExperiencePlan(name=task, tasks=(task,)) for task in tasks]


@STREAMS.register("mixed")
def mixed(
    tasks: Sequence[str], mixing: Mixing = "concat", weights: tuple[float, ...] = ()
) -> list[ExperiencePlan]:
    """One experience with all tasks at once, with the summed budget of all.

    It is scored at as many equally spaced points as there are tasks, so that its score matrix has
    the shape of the sequential stream's.

    Args:
        mixing: ``concat`` shuffles all examples together; ``interleave_under`` draws a task for
            each example by ``weights`` until one task runs out; ``interleave_over`` goes on, with
            repetition, until every task has been seen whole.
        weights: One positive number a task, in the stream's order; equal when left out.
    """
    if mixing not in ("concat", "interleave_under", "interleave_over"):
        raise UserError(
            f"mixing={mixing!r} is unknown: choose concat, interleave_under or interleave_over"
        )
    if weights and len(weights) != len(tasks):
        raise UserError(f"{len(weights)} weights for {len(tasks)} tasks: give one for each task")
    if any(weight <= 0 for weight in weights):
        raise UserError("stream weights must be positive")
    if weights and mixing == "concat":
        raise UserError("weights need mixing=interleave_under or interleave_over")
    return [
        ExperiencePlan(
            name="mixed",
            tasks=tuple(tasks),
            budget=float(len(tasks)),
            evaluations=len(tasks),
            mixing=mixing,
            weights=tuple(weights),
        )
    ]


def complete_stream_options(kind: str, options: Mapping[str, Any]) -> dict[str, JsonValue]:
    """All options of a stream as JSON values, the defaults filled in.

    Raises:
        UserError: If the stream or one of its options is unknown, or an option is out of range.
    """
    from epi_bench.plugins.options import complete_options

    return complete_options(f"stream {kind!r}", STREAMS.get(kind), options, skip=1)


def build_stream(
    kind: str, tasks: Sequence[str], options: Mapping[str, Any]
) -> list[ExperiencePlan]:
    """The experiences of a stream.

    Args:
        kind: The stream's name.
        tasks: Names of the run's tasks, in the stream's order.
        options: As the user gave them.

    Raises:
        UserError: If the stream or one of its options is unknown, an option is out of range, or
            its builder fails or returns experiences that cannot be trained.

    >>> [plan.name for plan in build_stream("sequential", ("first", "second"), {})]
    ['first', 'second']
    """
    from epi_bench.plugins.options import check_options

    builder = STREAMS.get(kind)
    checked = check_options(f"stream {kind!r}", builder, options, skip=1)
    with foreign_code(f"stream {kind!r} cannot be built"):
        plans = list(islice(builder(tuple(tasks), **checked), MOST_EXPERIENCES + 1))
    problem = _first_problem(plans, tasks)
    if problem:
        raise UserError(f"stream {kind!r} cannot be trained: {problem}")
    return plans


def _first_problem(plans: Sequence[object], tasks: Sequence[str]) -> str | None:
    """What is wrong with the experiences that a stream's builder returned."""
    if not plans:
        return "it has no experience"
    if len(plans) > MOST_EXPERIENCES:
        return f"it has more than {MOST_EXPERIENCES} experiences"
    for number, plan in enumerate(plans, start=1):
        if not isinstance(plan, ExperiencePlan):
            return f"experience {number} is not an ExperiencePlan but {type(plan).__name__}"
        problem = _problem_of_tasks(plan, tasks) or _problem_of_amounts(plan)
        if problem:
            return f"experience {number}, {plan.name!r}, {problem}"
    return None


def _problem_of_tasks(plan: ExperiencePlan, tasks: Sequence[str]) -> str | None:
    """What is wrong with a plan's name or tasks."""
    if not isinstance(plan.name, str) or not plan.name or plan.name != for_terminal(plan.name):
        return "must have a name of one line"
    if not isinstance(plan.tasks, tuple | list):
        return f"has tasks={plan.tasks!r}: give a tuple of names"
    if not plan.tasks or len({repr(task) for task in plan.tasks}) != len(plan.tasks):
        return "must name at least one task, and none twice"
    unknown = [task for task in plan.tasks if task not in tasks]
    if unknown:
        return f"names the task {unknown[0]!r}, which is not among the run's"
    return None


def _problem_of_amounts(plan: ExperiencePlan) -> str | None:
    """What is wrong with how much a plan trains, how often it scores and how it mixes."""
    if not _is_positive(plan.budget):
        return f"has the budget {short_repr(plan.budget)}: it must be a positive number"
    if type(plan.evaluations) is not int or plan.evaluations < 1:
        return f"has {plan.evaluations!r} evaluations: give a whole number from 1 on"
    if not isinstance(plan.weights, tuple | list) or not all(map(_is_positive, plan.weights)):
        return f"has weights={plan.weights!r}: give one positive number for each task"
    if plan.weights and len(plan.weights) != len(plan.tasks):
        return f"has {len(plan.weights)} weights for {len(plan.tasks)} tasks"
    if plan.mixing not in get_args(Mixing):
        return f"has mixing={plan.mixing!r}: choose from {', '.join(get_args(Mixing))}"
    return None


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= LARGEST_AMOUNT  # type: ignore[operator]


def mix_examples(
    pools: Sequence[Sequence[Any]], plan: ExperiencePlan, generator: random.Random
) -> list[Any]:
    """The examples of an experience, combined as its plan says.

    Args:
        pools: The training examples of each task in ``plan.tasks``.
        plan: Gives mixing and weights.
        generator: Source of every draw.

    Returns:
        One list; the batches are drawn from it in shuffled order.

    Raises:
        UserError: If a task is drawn so rarely that ``interleave_over`` would hardly end.
    """
    if plan.mixing == "concat" or len(pools) == 1:
        return [example for pool in pools for example in pool]
    weights = plan.weights or tuple(1.0 for _ in pools)
    shuffled = [generator.sample(list(pool), len(pool)) for pool in pools]
    taken = [0] * len(pools)
    most = MOST_REPEATS * sum(map(len, pools))
    mixed_examples: list[Any] = []
    while True:
        choice = generator.choices(range(len(pools)), weights=weights)[0]
        pool = shuffled[choice]
        if len(mixed_examples) == most:
            rare = plan.tasks[min(range(len(pools)), key=lambda i: weights[i] / len(pools[i]))]
            raise UserError(
                f"the stream's weights draw task {rare!r} so rarely that the others would be seen "
                f"more than {MOST_REPEATS} times before all of it is: give weights that are closer "
                "to each other"
            )
        mixed_examples.append(pool[taken[choice] % len(pool)])
        taken[choice] += 1
        seen_whole = [count >= len(pool) for count, pool in zip(taken, shuffled, strict=True)]
        if plan.mixing == "interleave_under" and any(seen_whole):
            return mixed_examples
        if plan.mixing == "interleave_over" and all(seen_whole):
            return mixed_examples
