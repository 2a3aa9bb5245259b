"""Gradient-conflict probes: do the tasks pull the weights in opposite directions?

For every task the gradient of the mean loss a supervised token on a fixed batch of its training
examples is taken, however many examples go through the model at once; the cosine of two tasks'
gradients is negative where a step for one undoes the other (PCGrad, arXiv 2001.06782).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from epi_bench.model.batching import collate
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import summed_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_COORDINATES = 2_000_000
"""Gradients longer than this are compared on a fixed random subset of that size."""


@dataclass(frozen=True, slots=True)
class ConflictMeasurement:
    """Cosines between the tasks' gradients at one point of a run.

    Attributes:
        cosines: Symmetric matrix (tasks, tasks); ``None`` where a gradient is zero or not finite.
        coordinates: Number of gradient coordinates compared.
    """

    cosines: list[list[float | None]]
    coordinates: int


class ConflictProbe:
    """Measures gradient conflict between tasks on fixed batches.

    Args:
        probes: For each task, in the stream's order, its probe examples.
        pad_token_id: Fills short rows.
        micro_batch: Examples of one backward pass.
        generator: Draws the coordinates for large models; the same ones at every measurement.
    """

    def __init__(
        self,
        probes: Mapping[str, Sequence[EncodedExample]],
        pad_token_id: int,
        micro_batch: int,
        generator: torch.Generator,
    ) -> None:
        self._probes = probes
        self._pad = pad_token_id
        self._micro_batch = micro_batch
        self._seed = generator.initial_seed()

    def measure(self, model: nn.Module) -> ConflictMeasurement:
        """Cosines at the model's present weights; gradients of the model stay untouched."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        coordinates = self._coordinates(parameters)
        was_training = model.training
        model.eval()
        gradients = [
            self._gradient(model, parameters, coordinates, examples)
            for examples in self._probes.values()
        ]
        model.train(was_training)
        kept = int(gradients[0].numel())
        return ConflictMeasurement([[_cosine(a, b) for b in gradients] for a in gradients], kept)

    def _gradient(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        coordinates: Sequence[Tensor | None],
        examples: Sequence[EncodedExample],
    ) -> Tensor:
        """Of the mean loss a token, in double precision and on the CPU."""
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        device = parameters[0].device
        for start in range(0, len(examples), self._micro_batch):
            part = examples[start : start + self._micro_batch]
            loss, supervised = summed_loss(model, collate(part, self._pad, device))
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            picked = [_pick(g, chosen) for g, chosen in zip(found, coordinates, strict=True)]
            total = total + torch.cat(picked)
            tokens += supervised
        return total / max(tokens, 1)

    def _coordinates(self, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """For each parameter the positions compared; ``None`` for all of them."""
        size = sum(parameter.numel() for parameter in parameters)
        if size <= MAX_COORDINATES:
            return [None] * len(parameters)
        generator = torch.Generator().manual_seed(self._seed)
        share = MAX_COORDINATES / size
        return [
            torch.randint(
                parameter.numel(), (max(round(parameter.numel() * share), 1),), generator=generator
            ).to(parameter.device)
            for parameter in parameters
        ]


def _pick(gradient: Tensor, positions: Tensor | None) -> Tensor:
    flat = gradient.detach().reshape(-1)
    picked = flat if positions is None else flat[positions]
    return picked.cpu().double()  # some GPUs have no double precision


def _cosine(first: Tensor, second: Tensor) -> float | None:
    """Exactly 1 for a gradient with itself; ``None`` where one is zero or not finite."""
    norms = math.sqrt(float(torch.dot(first, first)) * float(torch.dot(second, second)))
    if norms == 0 or not math.isfinite(norms):
        return None
    return max(-1.0, min(1.0, float(torch.dot(first, second)) / norms))
