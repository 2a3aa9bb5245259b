"""The state of a training loop as JSON values and tensors, from which it goes on bit for bit.

What is taken down: the weights that may have moved, the optimizer, the strategy, costs and
counters, the place in the experience under way with the examples that it draws from, and the
random states of the process. What follows from the run's specification is made again instead: the
model as the strategy prepared it, the batches' order, the learning rates.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    from torch import Tensor


class StateMismatchError(Exception):
    """A state that was taken from another model, or by a strategy that cannot take it up."""


@dataclass(frozen=True)
class LoopState:
    """What :meth:`epi_bench.training.loop.TrainingLoop.state_dict` returns.

    Attributes:
        values: JSON values.
        tensors: Groups of tensors: ``model``, ``optimizer``, ``strategy``, ``examples``,
            ``random``. They are those of the loop itself, not copies.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a model, tied ones once."""
    return chain(model.named_parameters(), model.named_buffers())


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values, shape and type."""
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    if plain.numel():
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class ModelState:
    """Tells which of a model's tensors have to be saved: those that may have changed.

    A parameter that is trained from the start is always saved. A frozen one and a buffer is saved
    if its values are others than at the start, so that the state of an adapter is small.

    Args:
        model: As the strategy prepared it, before training; ``None`` saves all tensors.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._start = {
            name: digest(tensor)
            for name, tensor in (named_tensors(model) if model is not None else ())
            if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad)
        }

    def take(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state of the model: what else is to be known of it, and the tensors to save."""
        unchanged, changed = {}, {}
        for name, tensor in named_tensors(model):
            start = self._start.get(name)
            if start is not None and digest(tensor) == start:
                unchanged[name] = start
            else:
                changed[name] = tensor.detach()
        values = {"unchanged": unchanged, "trained": trained_names(model)}
        return values, changed

    @torch.no_grad()
    def put(
        self, model: nn.Module, values: Mapping[str, Any], changed: Mapping[str, Tensor]
    ) -> None:
        """Give a model that was prepared the same way the saved state.

        Raises:
            StateMismatchError: If it is another model; it may have been changed by then.
        """
        present = dict(named_tensors(model))
        unchanged, trained = values["unchanged"], set(values["trained"])
        if missing := sorted({*changed, *unchanged, *trained} - set(present)):
            raise StateMismatchError(
                f"the model has no {missing[0]!r}: whatever adds to a model must do it in "
                "prepare_model"
            )
        if extra := sorted(set(present) - {*changed, *unchanged}):
            raise StateMismatchError(f"the model has a {extra[0]!r} that was not saved")
        for name, start in unchanged.items():
            if (self._start.get(name) or digest(present[name])) != start:
                raise StateMismatchError(
                    f"the model's {name!r} is not what it was when the run began"
                )
        for name, tensor in changed.items():
            target = present[name]
            if (target.shape, target.dtype) != (tensor.shape, tensor.dtype):
                raise StateMismatchError(f"the model's {name!r} has another shape or type")
            target.data.copy_(tensor)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that get a gradient, tied ones once, in the model's order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The groups of an optimizer, with names for parameters, and its tensors.

    Numbers that it keeps for a parameter stand among the values of the group, under ``kept``.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups, tensors = [], {}
    for group in optimizer.param_groups:
        kept: dict[str, dict[str, Any]] = {}
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{names[parameter]}/{key}"] = value.detach()
                else:
                    kept.setdefault(names[parameter], {})[key] = value
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append(
            {
                "parameters": [names[parameter] for parameter in group["params"]],
                "settings": settings,
                "kept": kept,
            }
        )
    return groups, tensors


def put_optimizer_state(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give an optimizer of the same parameters the saved state, each tensor in its own type.

    ``Optimizer.load_state_dict`` would cast the float32 moments of a bfloat16 weight.

    Raises:
        StateMismatchError: If it has other groups.
    """
    parameters = dict(model.named_parameters())
    names = {parameter: name for name, parameter in parameters.items()}
    present = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    if present != [list(group["parameters"]) for group in groups]:
        raise StateMismatchError("the optimizer has other parameters than when it was saved")
    optimizer.state.clear()
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved["settings"].items():
            group[key] = tuple(value) if isinstance(value, list) else value
        for name, kept in saved["kept"].items():
            optimizer.state[parameters[name]] = dict(kept)
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW's fused step wants its counter where the weights are; others want it on the CPU
        on_cpu = key == "step" and not any(group.get("fused") for group in optimizer.param_groups)
        device = torch.device("cpu") if on_cpu else parameter.device
        optimizer.state[parameter][key] = tensor.to(device, copy=True)


def drawn_state(
    drawn: Sequence[EncodedExample], own: Sequence[EncodedExample]
) -> dict[str, Tensor]:
    """The examples that an experience's batches are drawn from.

    Those that are the experience's own are named by position, others are written out, each once.

    Args:
        drawn: As the strategy chose them.
        own: Those of the experience.
    """
    known = {id(example): position for position, example in enumerate(own)}
    others: list[EncodedExample] = []
    positions = []
    for example in drawn:
        if id(example) not in known:
            known[id(example)] = len(own) + len(others)
            others.append(example)
        positions.append(known[id(example)])
    state = {
        "positions": torch.tensor(positions, dtype=torch.int64),
        "input_ids": torch.tensor([t for e in others for t in e.input_ids], dtype=torch.int64),
        "supervised": torch.tensor([s for e in others for s in e.supervised], dtype=torch.bool),
        "lengths": torch.tensor([len(e) for e in others], dtype=torch.int64),
        "cut": torch.tensor([e.cut for e in others], dtype=torch.int64),
    }
    if any(e.weight != 1 for e in others):
        state["weights"] = torch.tensor([e.weight for e in others], dtype=torch.float64)
    return state


def drawn_examples(
    state: Mapping[str, Tensor], own: Sequence[EncodedExample]
) -> list[EncodedExample]:
    """The examples that :func:`drawn_state` described."""
    lengths = state["lengths"].tolist()
    ids = state["input_ids"].split(lengths) if lengths else ()
    masks = state["supervised"].split(lengths) if lengths else ()
    weights = state["weights"].tolist() if "weights" in state else [1.0] * len(lengths)
    others = [
        EncodedExample(tuple(i.tolist()), tuple(m.tolist()), cut, weight)
        for i, m, cut, weight in zip(ids, masks, state["cut"].tolist(), weights, strict=True)
    ]
    known = [*own, *others]
    return [known[position] for position in state["positions"].tolist()]


def dropout_state(device: torch.device) -> tuple[Tensor, ...]:
    """Where the generators stand that dropout draws from: torch's, on the CPU and on a device."""
    found = (torch.get_rng_state(),)
    return (*found, torch.cuda.get_rng_state(device)) if device.type == "cuda" else found


def put_dropout_state(device: torch.device, state: Sequence[Tensor]) -> None:
    """Put them where they stood.

    Args:
        device: That of the model.
        state: As :func:`dropout_state` gave it.
    """
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The random states of this process: Python's and numpy's, and torch's on each device."""
    import numpy as np

    version, internal, gauss = random.getstate()
    found: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = found
    tensors = {"cpu": torch.get_rng_state()}
    for device in range(torch.cuda.device_count()):
        tensors[f"cuda {device}"] = torch.cuda.get_rng_state(device)
    tensors["numpy"] = torch.tensor(keys.tolist(), dtype=torch.int64)
    values = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
    }
    return values, tensors


def put_random_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Take up the random states that :func:`random_state` returned."""
    import numpy as np

    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, position, has_gauss, cached = values["numpy"]
    keys = np.array(tensors["numpy"].tolist(), dtype=np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    for device in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda {device}")) is not None:
            torch.cuda.set_rng_state(state, device)
