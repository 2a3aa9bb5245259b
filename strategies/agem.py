"""A-GEM: no step may raise the loss on the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from epi_bench import (
    ExampleMemory,
    Experience,
    Step,
    Strategy,
    UserError,
    register_strategy,
    trained_parameters,
)


@register_strategy("agem")
class AveragedGEM(Strategy):
    """No step may raise the loss on stored examples.

    Averaged gradient episodic memory (Chaudhry et al. 2019, arXiv 1812.00420).

    At each step from the second experience on the gradient ``r`` of a batch from the memory is
    computed, and where the step's gradient ``g`` points against it, that part is taken out:

        ``g <- g - (<g, r> / <r, r>) r`` if ``<g, r> < 0``

    over all weights together, before clipping. An adaptive optimizer scales the result weight by
    weight, so the update itself may still point a little against ``r``. Costs a second backward
    pass a step.

    Args:
        memory_size: Examples kept in all, at least 1.
        batch_size: Examples of the memory's gradient, at least 1.
        memory: ``reservoir`` or ``balanced``; see ``replay``.
    """

    family = "rehearsal"
    needs = ("boundaries",)
    bytes_per_parameter = "0"

    stores_examples = True
    acts_from = 1

    def __init__(
        self,
        memory_size: int = 256,
        batch_size: int = 16,
        memory: Literal["reservoir", "balanced"] = "reservoir",
    ) -> None:
        for option, value in (("memory_size", memory_size), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"agem: {option}={value} must be at least 1")
        self.batch_size = batch_size
        self._memory = ExampleMemory(memory_size, memory)
        self._projected = self._steps = 0

    def gradients_ready(self, step: Step) -> None:
        """Take out of the gradient what would raise the loss on the memory."""
        if not len(self._memory):
            return
        parameters = [p for p in trained_parameters(step.model).values() if p.grad is not None]
        reference = self._reference(step, parameters)
        pairs = [
            (p.grad, r) for p, r in zip(parameters, reference, strict=True) if p.grad is not None
        ]
        dot = sum(float((g.double() * r.double()).sum()) for g, r in pairs)
        self._steps += 1
        if dot < 0:
            self._projected += 1
            square = sum(float(r.double().square().sum()) for _, r in pairs)
            for gradient, r in pairs:
                gradient.sub_(r.to(gradient.dtype), alpha=dot / square)

    def end_experience(self, experience: Experience) -> None:
        """Offer every example of the experience to the memory."""
        generator = self.context.generator(f"memory of experience {experience.index}")
        self._memory.offer(experience.examples, generator)

    def diagnostics(self) -> dict[str, float]:
        """Share of the steps whose gradient was changed."""
        return {"projected_steps": self._projected / self._steps} if self._steps else {}

    def state_dict(self) -> dict[str, Tensor]:
        """The memory, and how many steps were changed."""
        counts = torch.tensor([self._projected, self._steps])
        return self._memory.state_dict() | {"counts": counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._memory.load_state_dict(state)
        self._projected, self._steps = state["counts"].tolist()

    def _reference(self, step: Step, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
        """The gradient on a batch of the memory; zero where it has none."""
        generator = self.context.generator(f"memory at step {step.number}")
        count = min(self.batch_size, len(self._memory))
        (batch,) = self.context.batches(generator.sample(self._memory.examples, count), count)
        loss = self.context.loss(step.model, batch)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
