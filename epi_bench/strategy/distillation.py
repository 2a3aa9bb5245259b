"""Training near what an earlier model predicts: distillation on the new task's own examples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from epi_bench.errors import UserError
from epi_bench.isolation.saved_state import state_part
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import Strategy

if TYPE_CHECKING:
    from epi_bench.spec.run_spec import TrainingSpec

CHUNK = 256
"""Tokens whose whole distributions exist at a time."""

Direction = Literal["forward", "reverse"]
"""``KL(teacher || model)``, or ``KL(model || teacher)``."""


class DistillationStrategy(Strategy):
    """Base of the strategies that penalise predictions far from an earlier model's.

    ``loss + strength T^2 / N sum_t KL(p_t || q_t)`` over the ``N`` supervised tokens of the step,
    with ``p`` the teacher's and ``q`` the trained model's distribution of the next token, both of
    logits divided by ``T``.

    The trained model's logits are those of the loss; the teacher costs a forward pass a step, and a
    copy of the model in memory. A model with a peft adapter is its own base: the adapter is turned
    off for the teacher's pass, and there is no copy. Distributions are made for 256 tokens at a
    time, so the vocabulary is never copied for a whole batch.

    Args:
        strength: Weight of the divergence, at least 0.
        teacher: ``base``, the model as it was loaded, or ``previous``, as the present experience
            found it.
        direction: ``forward``, ``KL(teacher || model)``, or ``reverse``.
        temperature: T, above 0.

    Example:
        >>> class Softly(DistillationStrategy):
        ...     def __init__(self, strength: float = 0.1) -> None:
        ...         super().__init__(strength, "base", "forward", 1.0)
        >>> Softly().teacher
        'base'
    """

    family = "penalty"

    def __init__(
        self,
        strength: float,
        teacher: Literal["base", "previous"],
        direction: Direction,
        temperature: float,
    ) -> None:
        if not strength >= 0:
            raise UserError(f"{self.name}: strength={strength} must be at least 0")
        if not temperature > 0:
            raise UserError(f"{self.name}: temperature={temperature} must be above 0")
        self.strength = strength
        self.teacher = teacher
        self.direction: Direction = direction
        self.temperature = temperature
        self._teacher: nn.Module | None = None
        self._parts: list[tuple[Tensor, int]] = []
        self._divergence = torch.tensor(0.0)

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A warning where nothing is held."""
        return [] if self.strength else [f"{self.name} with strength=0 trains as full_sft does"]

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep a copy of the base, unless it is there anyway."""
        if self.strength > 0 and self.teacher == "base" and not hasattr(model, "disable_adapter"):
            self._teacher = frozen_copy(model)
        return model

    def begin_experience(self, experience: Experience) -> None:
        """Keep a copy of the model as it is now, if that is the teacher."""
        if self.strength > 0 and self.teacher == "previous":
            self._teacher = frozen_copy(self.context.model)

    def batch_penalty(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor | None:
        """The divergence, summed over the micro-batch's supervised tokens."""
        predicted = batch["labels"][:, 1:] >= 0
        count = int(predicted.sum())
        if self.strength == 0 or count == 0:
            return None
        model: Any = self._teacher or self.context.model
        was_training = model.training
        with torch.no_grad(), self._as_teacher(model):
            model.eval()
            theirs = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits[:, :-1][predicted]
            model.train(was_training)
        self.context.count_tokens(int(batch["attention_mask"].sum()))
        total = summed_divergence(
            theirs, logits[:, :-1][predicted], self.direction, self.temperature
        )
        self._parts.append((total.detach(), count))
        return self.strength * self.temperature**2 * total

    def penalty(self, model: nn.Module) -> None:
        """No penalty on the weights: the step's last micro-batch has been seen."""
        if self._parts:
            total = torch.stack([part for part, _ in self._parts]).sum()
            self._divergence = total / sum(count for _, count in self._parts)
        self._parts = []

    def diagnostics(self) -> dict[str, float]:
        """The divergence of the last step, in nats a token."""
        return {"divergence": float(self._divergence)}

    def state_dict(self) -> dict[str, Tensor]:
        """The last step's divergence and the previous model's weights; a base is loaded again."""
        state = {"divergence": self._divergence}
        if self._teacher is not None and self.teacher == "previous":
            state |= {f"teacher.{name}": p for name, p in self._teacher.named_parameters()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._divergence = state["divergence"].clone()
        if weights := state_part(state, "teacher."):
            self._teacher = frozen_copy(self.context.model)
            for name, parameter in self._teacher.named_parameters():
                parameter.data.copy_(weights[name])

    def state_bytes(self) -> int:
        """Bytes of the copy."""
        held = self._teacher.parameters() if self._teacher is not None else ()
        return self._divergence.element_size() + sum(p.numel() * p.element_size() for p in held)

    def _as_teacher(self, model: Any) -> AbstractContextManager[object]:
        """The base in a model with an adapter; nothing to do for a copy."""
        off: AbstractContextManager[object] = (
            nullcontext() if self._teacher is not None else model.disable_adapter()
        )
        return off


def summed_divergence(
    teacher: Tensor,
    model: Tensor,
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """``KL(teacher || model)``, or the reverse, summed over tokens, in nats.

    >>> teacher, model = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    >>> round(summed_divergence(teacher, model).item(), 4)
    0.5108
    >>> round(summed_divergence(teacher, model, "reverse").item(), 4)
    0.3681

    Args:
        teacher: Logits (tokens, vocabulary); no gradient goes there.
        model: Logits of the same shape.
        direction: Which of the two.
        temperature: What both are divided by.
    """

    def of_chunk(theirs: Tensor, ours: Tensor) -> Tensor:
        p = (theirs.float() / temperature).log_softmax(-1)
        q = (ours.float() / temperature).log_softmax(-1)
        first, second = (p, q) if direction == "forward" else (q, p)
        return (first.exp() * (first - second)).sum()

    chunks = zip(teacher.detach().split(CHUNK), model.split(CHUNK), strict=True)
    found = [checkpoint(of_chunk, p, q, use_reentrant=False) for p, q in chunks]
    return torch.stack(found).sum()


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of a model as it is now, in evaluation mode and without gradients.

    Args:
        model: Any.
    """
    return copy.deepcopy(model).requires_grad_(False).eval()
