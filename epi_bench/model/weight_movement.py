"""How many weights a training has moved.

A run whose weights stand still forgets nothing, because it learns nothing. That happens without any
error where updates are smaller than what the weights' type can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from epi_bench.model.stochastic_rounding import HALF_PRECISION

if TYPE_CHECKING:
    from torch import Tensor

WATCHED = 2_000_000
"""Weights that are watched at most; in larger models they are drawn at random, and the share is an
estimate with a standard error below 0.04 points."""

ADAPTED = "base_layer."
"""What ``peft`` puts into the name of a layer's own weights when it lays an adapter over them."""


LITTLE = 0.5
"""Share of the weights free to move below which a training that is rounded is warned of."""


@dataclass(frozen=True)
class _Watched:
    """Weights of one tensor before training.

    Attributes:
        positions: Of the watched weights in the flat tensor; ``None`` for all of them.
        values: Theirs.
        shape: Of the whole tensor.
    """

    positions: Tensor | None
    values: Tensor
    shape: torch.Size


class WeightMovement:
    """Remembers weights as they were loaded, to tell which of them training has moved.

    Counted are the weights that can differ in the saved model: the trained ones, and those that an
    adapter is merged into at the end. Costs at most 24 MB on the CPU.

    Args:
        loaded: The model's parameters by name, before the strategy prepared it.
        model: As the strategy prepared it, in the types in which it was loaded.
        generator: Draws the weights that are watched in large models.
    """

    def __init__(
        self, loaded: Mapping[str, nn.Parameter], model: nn.Module, generator: torch.Generator
    ) -> None:
        names = {parameter: name for name, parameter in loaded.items()}
        candidates = {
            names.get(parameter, name): parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or (ADAPTED in name and parameter in names)
        }
        size = sum(parameter.numel() for parameter in candidates.values())
        share = min(WATCHED / max(size, 1), 1.0)
        self._watched = {
            name: _watch(parameter, share, generator) for name, parameter in candidates.items()
        }

    def share(self, model: nn.Module) -> float | None:
        """Share of the weights that now differ, in 0..1; ``None`` if the model has none of them.

        Args:
            model: The finished model, as it is saved.
        """
        moved = total = 0.0
        for name, parameter in model.named_parameters():
            before = self._watched.get(name)
            if before is None or before.shape != parameter.shape or not parameter.numel():
                continue
            now = _values(parameter, before.positions)
            differing = int((now != before.values.to(now.dtype)).sum())
            moved += parameter.numel() * differing / now.numel()
            total += parameter.numel()
        return moved / total if total else None


def is_rounded(model: nn.Module) -> bool:
    """Whether a model, as it is saved, holds weights of half precision."""
    return any(parameter.dtype in HALF_PRECISION for parameter in model.parameters())


def warn_of_little_movement(share: float, held: float, rounded: bool) -> list[str]:
    """A warning for the user if next to nothing has moved, else none.

    Args:
        share: Of the weights that have moved, in 0..1.
        held: Share of the weights that the strategy holds still on purpose, in 0..1.
        rounded: Whether the model is saved in half precision.
    """
    if share == 0:
        return ["training has moved no weight: the scores are those of the base model"]
    if not rounded or share >= LITTLE * (1 - held):
        return []
    return [
        f"only {100 * share:.1f} % of the trained weights differ from the loaded ones in the "
        "bfloat16 model that is scored and saved, because smaller changes are rounded away: it may "
        "forget little only because it has learned little; train longer, raise "
        "training.learning_rate, or set model.dtype to float32"
    ]


def _watch(parameter: nn.Parameter, share: float, generator: torch.Generator) -> _Watched:
    positions = None
    if share < 1 and parameter.numel():
        count = max(round(parameter.numel() * share), 1)
        positions = torch.randint(parameter.numel(), (count,), generator=generator)
    return _Watched(positions, _values(parameter, positions), parameter.shape)


@torch.no_grad()
def _values(parameter: nn.Parameter, positions: Tensor | None) -> Tensor:
    """A copy of the values at these positions, on the CPU."""
    flat = parameter.detach().reshape(-1)
    if positions is not None:
        flat = flat[positions.to(flat.device)]
    return flat.to("cpu", copy=True)
