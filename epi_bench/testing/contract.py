"""What each check of a strategy's contract is: it trains it on the toy tasks in one way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import (
    BATCH,
    STEPS,
    own_numerics,
    toy_loop,
    toy_model,
    toy_tasks,
    train_toy,
)
from epi_bench.testing.witness import stored_bits

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from epi_bench.strategy.strategy import Strategy

Weights = Mapping[str, "Tensor"]
"""Parameters by name."""

BOOKKEEPING = 1.1
"""Tensors that a strategy may hold for each byte that it reports: small ones need no counting."""

ROUNDING = 0.1
"""How far two ways to compute the same training may end apart, as a share of how far it went."""


@dataclass
class Subject:
    """The strategy under test.

    Attributes:
        cls: Its class.
        options: Its options, checked.
    """

    cls: type[Strategy]
    options: Mapping[str, Any]

    def make(self) -> Strategy:
        """A fresh one."""
        return self.cls(**self.options)

    def trained(self, **options: Any) -> dict[str, Tensor]:
        """Weights after both tasks."""
        return weights_of(train_toy(self.make(), **options))

    @cached_property
    def plainly_trained(self) -> PreTrainedModel:
        """The finished model of a run with every setting at its default."""
        random.seed(1)
        return train_toy(self.make())


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def first_difference(first: Weights, second: Weights) -> str | None:
    """Name of a parameter that is not the same in both, bit for bit."""
    if first.keys() != second.keys():
        return min(first.keys() ^ second.keys())
    for name, tensor in first.items():
        other = second[name]
        same = tensor.shape == other.shape and tensor.dtype == other.dtype
        if not same or not bool((stored_bits(tensor) == stored_bits(other)).all()):
            return name
    return None


def _check_names(subject: Subject) -> str | None:
    """A hook whose name is misspelled is never called, nor one with other arguments."""
    from epi_bench.strategy.hook_names import hook_problem
    from epi_bench.strategy.strategy import Strategy

    return hook_problem(subject.cls, Strategy)


_EXPERIENCE = ["begin_experience", "training_examples"]
_GRADIENTS = ["token_weights", "batch_penalty", "penalty"]
_STEP = [*_GRADIENTS, "gradients_ready", "parameters_updated", "stop_experience"]
WATCHED = [
    "prepare_model",
    "begin_training",
    *_EXPERIENCE,
    *_STEP,
    "end_experience",
    "finalize_model",
]


def _check_hooks(subject: Subject) -> str | None:
    """Hooks are called in the documented order, by the loop alone, and return what they should."""
    import torch

    strategy, called, returned = subject.make(), [], {}

    def watched(name: str) -> Callable[..., Any]:
        hook = getattr(strategy, name)

        def call(*arguments: Any) -> Any:
            called.append(name)
            returned[name] = hook(*arguments)
            return returned[name]

        return call

    for name in WATCHED:
        setattr(strategy, name, watched(name))
    train_toy(strategy)
    if _without_repeats(called) != _expected_calls(called):
        return (
            "its hooks were not called in the documented order: leave calling them to the "
            "training loop, and use super().HOOK() inside HOOK alone"
        )
    for name in ("prepare_model", "finalize_model"):
        if not isinstance(returned[name], torch.nn.Module):
            return f"{name} returned {type(returned[name]).__name__}: return the model"
    penalty = returned["penalty"]
    if penalty is not None and (not isinstance(penalty, torch.Tensor) or penalty.dim() != 0):
        return "penalty must return a scalar tensor with its graph, or None"
    return _report_problem(strategy)


def _report_problem(strategy: Strategy) -> str | None:
    """What is wrong with the numbers that a strategy reports of itself."""
    for name, value in strategy.diagnostics().items():
        if not isinstance(name, str) or not isinstance(value, float | int):
            return f"diagnostics must give numbers by name, not {name!r}: {type(value).__name__}"
    shapes = {name: p.shape for name, p in strategy.context.model.named_parameters()}
    for name, tensor in strategy.stiffness().items():
        if name not in shapes or tensor.shape != shapes[name] or bool((tensor < 0).any()):
            return (
                f"stiffness must give for names of parameters tensors of their shape, not negative:"
                f" {name!r} is none"
            )
    return None


def _expected_calls(called: Sequence[str]) -> list[str]:
    """The documented order; an experience may have fewer steps where the strategy ends it.

    Whether it ends with a step is asked after each but the last.
    """
    expected, once = ["prepare_model", "begin_training"], _without_repeats(called)
    for _ in range(2):
        rest = once[len(expected) :]
        end = rest.index("end_experience") if "end_experience" in rest else len(rest)
        steps = min(rest[:end].count("gradients_ready"), STEPS)
        made = [*_EXPERIENCE, *_STEP * steps]
        if steps == STEPS:
            made.pop()
        expected += [*made, "end_experience"]
    return [*expected, "finalize_model"]


def _without_repeats(called: Sequence[str]) -> list[str]:
    """Without the hooks of gradients that were computed a second time, within their hook."""
    kept: list[str] = []
    for name in called:
        if name not in _GRADIENTS or kept[-1:] != ["gradients_ready"]:
            kept.append(name)
    return kept


def _check_scoring(subject: Subject) -> str | None:
    """Scoring in the middle of the stream leaves the training as it was, bit for bit."""
    strategy = subject.make()
    with own_numerics():
        loop = toy_loop(strategy)
        loop.train(toy_tasks()[0])
        before = weights_of(loop.model)
        with strategy.as_finished(loop.model) as model:
            if not hasattr(model, "parameters"):
                return "as_finished must give the model to score"
        changed = first_difference(before, weights_of(loop.model))
    if changed:
        return f"as_finished changed {changed}: put back afterwards what it does to the model"
    return None


def _check_determinism(subject: Subject) -> str | None:
    """The same seed gives the same weights, whatever else the process has drawn."""
    first = weights_of(subject.plainly_trained)
    random.seed(2)
    changed = first_difference(first, subject.trained())
    if changed:
        return (
            f"two runs with seed 0 end with another {changed}: draw from "
            "self.context.generator(PURPOSE) or torch_generator(PURPOSE), keep no state in the "
            "class or the module, and iterate over no set"
        )
    return None


def _check_leak(subject: Subject) -> str | None:
    """A run leaves nothing behind that changes the next one."""
    first = weights_of(subject.plainly_trained)
    subject.trained(seed=4)
    random.seed(1)
    changed = first_difference(first, subject.trained())
    if changed:
        return (
            f"a run changes {changed} of the next one: make lists, tables and tensors in __init__ "
            "or in a hook, not in the class or the module"
        )
    return None


def _check_state(subject: Subject) -> str | None:
    """A run that is interrupted, wherever that is, ends as one that is not."""
    return resuming_problem(subject.make)


def _check_rounding(subject: Subject) -> str | None:
    """So does one whose bfloat16 weights are rounded at random."""
    return resuming_problem(
        subject.make,
        points=(2 * STEPS - 1,),
        dtype="bfloat16",
        training={"master_weights": "none"},
    )


def _check_memory(subject: Subject) -> str | None:
    """What the strategy keeps beside the model is reported."""
    with own_numerics():
        strategy = subject.make()
        loop = toy_loop(strategy)
        for experience in toy_tasks():
            loop.train(experience)
        reported = strategy.state_bytes()
        known = {t.untyped_storage().data_ptr() for t in loop.model.state_dict().values()}
        held = sum(_held_tensors(vars(strategy), known, {id(loop.context)}))
    if not isinstance(reported, int) or reported < 0:
        return f"state_bytes returned {reported!r}: return a number of bytes"
    if held > BOOKKEEPING * reported:
        return (
            f"state_bytes reports {reported} bytes, its attributes hold tensors of {held}: give "
            "them in state_dict, or count them in state_bytes"
        )
    return None


def _held_tensors(value: Any, storages: set[int], seen: set[int]) -> Iterator[int]:
    """Bytes of each tensor that is reached from a value and shares no memory with the model."""
    import torch

    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            storages.add(storage.data_ptr())
            yield storage.nbytes()
        return
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer | type):
        return
    inner: Sequence[Any] = ()
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    elif hasattr(value, "__dict__"):
        inner = list(vars(value).values())
    for part in inner:
        yield from _held_tensors(part, storages, seen)


def _check_accumulation(subject: Subject) -> str | None:
    """Micro-batches of a step are the same training as one batch, up to rounding."""
    whole = weights_of(subject.plainly_trained)
    parts = subject.trained(training={"batch_size": BATCH // 2, "accumulation": 2})
    distance, length = _distance(whole, parts), _distance(whole, weights_of(toy_model()))
    if distance > ROUNDING * length:
        return (
            f"2 micro-batches of {BATCH // 2} train otherwise than one of {BATCH}: gradients are "
            "complete in gradients_ready, so divide by nothing there, and let nothing depend on "
            "batch_size or accumulation"
        )
    return None


def _distance(first: Weights, second: Weights) -> float:
    """Euclidean distance over the parameters that both have."""
    squares = (
        (first[name].float() - second[name].float()).square().sum()
        for name in first.keys() & second.keys()
    )
    return float(sum(map(float, squares))) ** 0.5


def _check_bfloat16(subject: Subject) -> str | None:
    """bfloat16 weights train too, kept in float32 meanwhile or not."""
    import torch

    for masters in ("float32", "none"):
        model = train_toy(
            subject.make(),
            model=toy_model(dtype="bfloat16"),
            training={"master_weights": masters},
        )
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return (
                    f"with bfloat16 weights and master_weights={masters!r}, {name} is not finite: "
                    "compute in float32 what you keep beside the weights"
                )
    return None


def _check_tied_weights(subject: Subject) -> str | None:
    """Input and output embeddings that are one tensor stay one; separate ones train too."""
    apart = train_toy(subject.make(), model=toy_model(tied=False))
    finished: list[tuple[bool, Any]] = [(True, subject.plainly_trained), (False, apart)]
    for tied, model in finished:
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        if (inputs.data_ptr() == outputs.data_ptr()) != tied:
            return (
                "the finished model's input and output embeddings are "
                f"{'no longer one tensor' if tied else 'now one tensor'}: change parameters in "
                "place, and take each tensor once (named_parameters does)"
            )
    return None


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "names": _check_names,
    "hooks": _check_hooks,
    "scoring": _check_scoring,
    "determinism": _check_determinism,
    "leak": _check_leak,
    "state": _check_state,
    "bfloat16 state": _check_rounding,
    "memory": _check_memory,
    "accumulation": _check_accumulation,
    "bfloat16": _check_bfloat16,
    "tied weights": _check_tied_weights,
}
"""Every check by name, in the order in which they are made."""
