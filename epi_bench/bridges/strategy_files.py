"""The state of a strategy beside somebody's checkpoint: tensors, and JSON that says what they are.

``strategy.json`` is written last: a folder without it was not finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from epi_bench.bridges.strategy_run import StrategyRun
from epi_bench.errors import UserError
from epi_bench.files import write_atomically
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience
from epi_bench.training.loop_state import (
    ModelState,
    StateMismatchError,
    drawn_examples,
    drawn_state,
    trained_names,
)
from epi_bench.training.strategy_state import put_strategy_state, strategy_state

TENSORS_FILE = "strategy.safetensors"
VALUES_FILE = "strategy.json"
FORMAT = 1


def save_strategy_files(run: StrategyRun, folder: Path, weights: ModelState | None) -> None:
    """Write a strategy's state.

    Args:
        run: Between two steps, or between two experiences.
        folder: There already.
        weights: Tells which weights to write too, where the checkpoint itself holds only some of
            them (an adapter's); ``None`` for none.

    Raises:
        UserError: If the strategy gives something that cannot be written.
    """
    model = run.context.model
    try:
        values, tensors = strategy_state(run.strategy, model)
    except StateMismatchError as error:
        raise UserError(f"{folder / VALUES_FILE}: {error}") from error
    groups: dict[str, Mapping[str, Tensor]] = {"strategy": tensors}
    model_values = None
    if weights is not None:
        model_values, groups["model"] = weights.take(model)
    if (experience := run.experience) is not None and run.drawn is not experience.examples:
        groups["examples"] = drawn_state(run.drawn, experience.examples)
    whole = {
        "format": FORMAT,
        "strategy": run.name,
        "options": run.options,
        "experience": None if experience is None else experience.name,
        "experience_steps": 0 if experience is None else experience.steps,
        "entered": run.entered,
        "lengths": run.lengths,
        "steps": run.steps,
        "steps_in_experience": run.steps_in_experience,
        "is_over": run.is_over,
        "skipped": run.skipped,
        "trained": trained_names(model),
        "model": model_values,
        "state": values,
    }
    flat = {
        f"{group}/{name}": tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    save_file(flat, folder / TENSORS_FILE)
    write_atomically(folder / VALUES_FILE, json.dumps(whole))


class StrategyFiles:
    """A strategy's state as it was written, checked to be of the same strategy.

    Args:
        folder: Where it lies.
        run: That will take it up.

    Attributes:
        experience: Name of the experience that was under way; ``None`` between two.

    Raises:
        UserError: If there is none, or it is of another strategy or other options.
    """

    def __init__(self, folder: Path, run: StrategyRun) -> None:
        self._folder = folder
        self._run = run
        path = folder / VALUES_FILE
        if not path.is_file():
            raise UserError(
                f"{folder} has no {VALUES_FILE}: it was saved without a strategy, or the saving "
                "was interrupted; go on from an older checkpoint, or begin anew"
            )
        try:
            self._values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = self._values["format"], self._values["strategy"], self._values["options"]
            tensors = load_file(folder / TENSORS_FILE)
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise UserError(f"{folder}: the strategy's state is damaged ({error})") from error
        if known[0] != FORMAT:
            raise UserError(f"{path} has format {known[0]}, and this version reads {FORMAT}")
        if known[1:] != (run.name, run.options):
            raise UserError(f"{path}: {_difference(known[1], known[2], run)}")
        self._groups: dict[str, dict[str, Tensor]] = {"strategy": {}, "model": {}, "examples": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition("/")
            self._groups[group][name] = tensor
        self.experience: str | None = self._values["experience"]

    def place(self, examples: Sequence[EncodedExample], training: TrainingSpec) -> None:
        """Put the run where it was, and choose the parameters that were trained.

        Before the optimizer is made. The strategy itself takes its state up in :meth:`load`.

        Args:
            examples: Of the experience that was under way.
            training: What is known of the optimizer and the schedule.
        """
        run, values = self._run, self._values
        run.entered, run.steps = values["entered"], values["steps"]
        run.lengths = list(values["lengths"])
        run.steps_in_experience, run.skipped = values["steps_in_experience"], values["skipped"]
        run.is_over = values.get("is_over", False)
        run.context.experience_count = run.entered
        _choose_trained(run.context.model, values["trained"], self._folder)
        if self.experience is None:
            run.experience, run.drawn = None, ()
            return
        steps = values["experience_steps"]
        run.context.total_steps = run.steps - run.steps_in_experience + steps
        run.strategy.check_run(training, run.lengths)
        name = self.experience
        run.experience = Experience(run.entered - 1, name, (name,), examples, steps)
        drawn = self._groups["examples"]
        run.drawn = drawn_examples(drawn, examples) if drawn else examples

    def load(self, weights: ModelState | None) -> None:
        """Give the strategy its state; weights and optimizer are as they were by then.

        Args:
            weights: As :func:`save_strategy_files` was given it, of this model.

        Raises:
            UserError: If it cannot take it up.
        """
        run, values = self._run, self._values
        model = run.context.model
        try:
            if weights is not None and values["model"] is not None:
                weights.put(model, values["model"], self._groups["model"])
            put_strategy_state(
                run.strategy,
                model,
                run.context.device,
                values["state"],
                self._groups["strategy"],
            )
        except StateMismatchError as error:
            raise UserError(f"{self._folder / VALUES_FILE}: {error}") from error


def _choose_trained(model: nn.Module, names: Sequence[str], folder: Path) -> None:
    present = dict(model.named_parameters())
    if missing := sorted(set(names) - set(present)):
        raise UserError(
            f"{folder / VALUES_FILE} trains {missing[0]!r}, which the model does not have: give "
            "the model that the training began with"
        )
    for name, parameter in present.items():
        parameter.requires_grad_(name in names)


def _difference(name: str, options: Mapping[str, Any], run: StrategyRun) -> str:
    """What a message says of a state that is of another strategy."""
    if name != run.name:
        return f"it is the state of strategy {name!r}, and this one is {run.name!r}"
    keys = [*options, *(key for key in run.options if key not in options)]
    other = next(key for key in keys if options.get(key) != run.options.get(key))
    return (
        f"{name} was trained with {other}={options.get(other)!r}, and now has "
        f"{other}={run.options.get(other)!r}: give the same options"
    )
