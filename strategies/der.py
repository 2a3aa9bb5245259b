"""Dark experience replay: rehearse what the model said, not only what was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    EncodedExample,
    ExampleMemory,
    Experience,
    Step,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    state_part,
)

SMALLEST_REST = 1e-6
"""Least probability of the rest: below, single precision cannot tell it from rounding."""


@register_strategy("der")
class DarkExperienceReplay(Strategy):
    """Stored examples are rehearsed together with what the model predicted then.

    DER++ (Buzzega et al. 2020, arXiv 2004.07211) for language models.

    The memory keeps examples and, for each of their supervised tokens, what the model predicted
    there at the end of the example's experience: its ``top`` most probable tokens and the rest as
    one. From the second experience on

        ``loss + alpha KL(then || now) + beta cross-entropy``,

    each on a batch drawn from the memory by itself, as means over tokens. The authors match logits
    with a squared error; logits of a language model may all shift by a constant without a change of
    the prediction, and a vocabulary of them would take 100 kB a token, so the distributions are
    compared, of ``top + 1`` parts (a lower bound of the whole divergence). They also keep the
    logits of the moment at which an example was trained; here it is the end of its experience,
    where the model is best at it. Costs two forward and backward passes of ``batch_size`` a step,
    and 8 bytes a stored token and part.

    Args:
        memory_size: Examples kept in all, at least 1.
        batch_size: Examples of each of the two batches, at least 1.
        alpha: Weight of the divergence, at least 0; 0 leaves it out.
        beta: Weight of the cross-entropy, at least 0; 0 leaves it out (DER without ++).
        top: Tokens whose probability is kept, at least 1.
        memory: ``reservoir`` or ``balanced``; see ``replay``.
    """

    family = "rehearsal"
    needs = ("boundaries",)
    bytes_per_parameter = "0"
    trade_off = TradeOff("alpha", (0.1, 0.25, 0.5, 1.0, 2.0))

    stores_examples = True
    acts_from = 1

    def __init__(
        self,
        memory_size: int = 256,
        batch_size: int = 8,
        alpha: float = 0.5,
        beta: float = 0.5,
        top: int = 64,
        memory: Literal["reservoir", "balanced"] = "reservoir",
    ) -> None:
        for option, value, least in (
            ("memory_size", memory_size, 1),
            ("batch_size", batch_size, 1),
            ("alpha", alpha, 0),
            ("beta", beta, 0),
            ("top", top, 1),
        ):
            if value < least:
                raise UserError(f"der: {option}={value} must be at least {least}")
        self.batch_size = batch_size
        self.alpha = alpha
        self.beta = beta
        self.top = top
        self._memory = ExampleMemory(memory_size, memory)
        self._predictions: dict[EncodedExample, tuple[Tensor, Tensor]] = {}
        self._steps = 0

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Both terms, or ``None`` before the first experience has ended."""
        if not len(self._memory):
            return None
        terms = []
        if self.alpha > 0:
            drawn = self._draw("predictions")
            terms.append(self.alpha * self._divergence(model, drawn))
        if self.beta > 0:
            (batch,) = self.context.batches(self._draw("labels"), self.batch_size)
            terms.append(self.beta * self.context.loss(model, batch))
        return torch.stack(terms).sum() if terms else None

    def parameters_updated(self, step: Step) -> None:
        """Count, so that each step draws for itself."""
        self._steps += 1

    def end_experience(self, experience: Experience) -> None:
        """Offer every example to the memory; note what the model says to those that are new."""
        generator = self.context.generator(f"memory of experience {experience.index}")
        self._memory.offer(experience.examples, generator)
        kept = self._predictions
        new = [example for example in self._memory.examples if example not in kept]
        noted = self._predict(new)
        self._predictions = {e: kept[e] if e in kept else noted[e] for e in self._memory.examples}

    def state_dict(self) -> dict[str, Tensor]:
        """The memory with its predictions, and the number of steps."""
        state = self._memory.state_dict() | {"steps": torch.tensor(self._steps)}
        for number, example in enumerate(self._memory.examples):
            tokens, logarithms = self._predictions[example]
            state |= {f"tokens.{number}": tokens, f"logarithms.{number}": logarithms}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        self._memory.load_state_dict(state)
        self._steps = int(state["steps"])
        tokens, logarithms = state_part(state, "tokens."), state_part(state, "logarithms.")
        self._predictions = {
            example: (tokens[str(number)].clone(), logarithms[str(number)].clone())
            for number, example in enumerate(self._memory.examples)
        }

    def _draw(self, purpose: str) -> list[EncodedExample]:
        generator = self.context.generator(f"{purpose} of step {self._steps}")
        count = min(self.batch_size, len(self._memory))
        return generator.sample(self._memory.examples, count)

    @torch.no_grad()
    def _predict(
        self, examples: Sequence[EncodedExample]
    ) -> dict[EncodedExample, tuple[Tensor, Tensor]]:
        """For each example its top tokens, and their log-probabilities with that of the rest."""
        model, found = self.context.model, {}
        was_training = model.training
        model.eval()
        for example in examples:
            logarithms = self._log_probabilities(model, [example])[0]
            top = logarithms.topk(min(self.top, logarithms.shape[-1]), dim=-1)
            parts = with_rest(top.values)
            found[example] = (top.indices.to(torch.int32).cpu(), parts.cpu())
        model.train(was_training)
        return found

    def _divergence(self, model: nn.Module, examples: Sequence[EncodedExample]) -> Tensor:
        """``KL(then || now)`` in nats, the mean over the examples' supervised tokens."""
        total, count = [], 0
        for example, now in zip(examples, self._log_probabilities(model, examples), strict=True):
            tokens, then = (tensor.to(now.device) for tensor in self._predictions[example])
            parts = with_rest(now.gather(-1, tokens.long()))
            total.append((then.exp() * (then - parts)).sum())
            count += len(now)
        return torch.stack(total).sum() / count

    def _log_probabilities(
        self, model: nn.Module, examples: Sequence[EncodedExample]
    ) -> list[Tensor]:
        """At the supervised positions of each example: (positions, vocabulary)."""
        (batch,) = self.context.batches(examples, len(examples))
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
            :, :-1
        ]
        predicted = batch["labels"][:, 1:] >= 0
        return [
            torch.log_softmax(row[mask].float(), dim=-1)
            for row, mask in zip(logits, predicted, strict=True)
        ]


def with_rest(logarithms: Tensor) -> Tensor:
    """Log-probabilities of some outcomes, and behind them that of all others together.

    >>> with_rest(torch.tensor([0.5, 0.25]).log()).exp().tolist()
    [0.5, 0.25, 0.25]

    Args:
        logarithms: (..., outcomes).
    """
    rest = 1 - logarithms.exp().sum(-1, keepdim=True)
    return torch.cat([logarithms, rest.clamp(min=SMALLEST_REST).log()], dim=-1)
