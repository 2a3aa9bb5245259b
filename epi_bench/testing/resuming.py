"""Whether a strategy that is interrupted ends as one that is not, wherever that happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from epi_bench.testing.toys import STEPS, own_numerics, toy_loop, toy_model, toy_tasks

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.strategy.strategy import Strategy
    from epi_bench.training.loop import TrainingLoop
    from epi_bench.training.loop_state import LoopState

REMEDY = (
    "keep everything in state_dict that later steps depend on, and take it up in load_state_dict "
    "(begin_experience and training_examples are not called again within an experience); delete "
    "what is needed within a step only, and name caches in not_in_state"
)


POINTS = (0, STEPS - 1, STEPS, 2 * STEPS - 1, 2 * STEPS + 1)
"""Where a strategy is interrupted, of ``STEPS`` steps and an end of each of the two toy tasks: in
the first task, before and after its end, in the second task, and after the whole stream."""


def resuming_problem(
    make: Callable[[], Strategy],
    *,
    points: Collection[int] = POINTS,
    dtype: str = "float32",
    training: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> str | None:
    """Interrupt a strategy at several points of the toy stream, and go on from there.

    Each time a new strategy and a new model take up the state, as in a new process, and train the
    rest. They must end with the weights, the state and the diagnostics of an uninterrupted run.

    Args:
        make: Gives a fresh strategy.
        points: Where, counted from 0 over the steps of a task and its end, then the next task's.
        dtype: Of the toy model's weights.
        training: Settings of :class:`epi_bench.TrainingSpec` beside the budget.
        adapter: Settings of the section ``adapter``.

    Returns:
        What is wrong, with a remedy; ``None`` if nothing is.
    """
    from epi_bench.training.loop_state import StateMismatchError

    def started() -> TrainingLoop:
        loop = toy_loop(make(), model=toy_model(dtype=dtype), training=training, adapter=adapter)
        loop.remember_start()
        return loop

    with own_numerics():
        whole = started()
        interruptions = list(_interruptions(whole))
        end = _fingerprints(whole)
    last = len(interruptions) - 1  # there are fewer where the strategy ends a task early
    for finished, where, state in (interruptions[min(point, last)] for point in points):
        with own_numerics():
            loop = started()
            try:
                loop.load_state_dict(state, toy_tasks())
            except StateMismatchError as error:
                return f"interrupted {where}: {error}: {REMEDY}"
            for experience in toy_tasks()[finished:]:
                loop.train(experience)
            changed = _first_difference(end, _fingerprints(loop))
        if changed:
            return (
                f"a run that was interrupted {where} ends with another {changed} than one that "
                f"was not: {REMEDY}"
            )
    return None


def _interruptions(loop: TrainingLoop) -> Iterator[tuple[int, str, LoopState]]:
    """Train both tasks; gives the state after each step and each task.

    Before each state: how many tasks are over then, and where that is, in words.
    """
    for index, experience in enumerate(toy_tasks()):
        within: list[LoopState] = []
        loop.train(experience, at_rest=partial(_save, loop, within))
        for step, state in enumerate(within, start=1):
            before = ", before end_experience" if step == len(within) else ""
            yield index, f"after step {step} of the {experience.name} task{before}", state
        yield index + 1, f"after end_experience of the {experience.name} task", _saved(loop)


def _save(loop: TrainingLoop, taken: list[LoopState]) -> None:
    taken.append(_saved(loop))


def _saved(loop: TrainingLoop) -> LoopState:
    """The loop's state as it is read from a checkpoint: through JSON, in memory of its own."""
    from epi_bench.training.loop_state import LoopState

    state = loop.state_dict()
    tensors = {
        group: {name: tensor.detach().clone() for name, tensor in named.items()}
        for group, named in state.tensors.items()
    }
    return LoopState(json.loads(json.dumps(state.values)), tensors)


def _fingerprints(loop: TrainingLoop) -> dict[str, str]:
    """What may not depend on an interruption, by name."""
    from epi_bench.training.loop_state import digest

    strategy = loop.strategy
    tensors: dict[str, Tensor] = dict(loop.model.named_parameters())
    tensors |= {f"{name} of state_dict": t for name, t in strategy.state_dict().items()}
    numbers: dict[str, Any] = {f"{k} of diagnostics": v for k, v in strategy.diagnostics().items()}
    numbers["state_bytes"] = strategy.state_bytes()
    return {name: digest(tensor) for name, tensor in tensors.items()} | {
        name: repr(number) for name, number in numbers.items()
    }


def _first_difference(first: Mapping[str, str], second: Mapping[str, str]) -> str | None:
    names = [*first, *(name for name in second if name not in first)]
    return next((name for name in names if first.get(name) != second.get(name)), None)
