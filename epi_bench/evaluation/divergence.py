"""How far a model has moved from the base model on the prompts of the tasks that it learns.

Forgetting is reported to follow this number across ways of training, where the size and the
sparsity of the change of the weights do not tell it (RL's Razor, arXiv 2509.04259).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from epi_bench.evaluation.supervised_logits import batches_by_length, supervised_logits
from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    from torch import nn

TOP = 64
"""Tokens of the base model's distribution that are kept at each position, the likeliest ones. The
others are one class together, so that a position takes 772 bytes for any vocabulary. Merging
classes lowers a divergence: what is measured is at most the divergence over the whole vocabulary.
"""

ROWS = 8
"""Examples of a forward pass."""

POSITIONS = 64
"""Positions whose distributions over the whole vocabulary are there at a time."""


class Divergence(NamedTuple):
    """How far a model's predictions are from the base model's.

    Attributes:
        nats: Mean of KL(base || model) over the tokens.
        tokens: How many were predicted.
    """

    nats: float
    tokens: int


class _Kept(NamedTuple):
    """The base model's distributions at some positions: of its likeliest tokens, and of the rest.

    Attributes:
        tokens: The likeliest tokens (positions, tokens).
        log_probabilities: Theirs (positions, tokens), and last that of all others together.
    """

    tokens: Tensor
    log_probabilities: Tensor


class BaseDistributions:
    """What the base model expects at the supervised positions of some tasks' examples.

    The divergence is KL(base || model), which counts what the base model would have said and the
    model would not, as a mean over the supervised tokens, given the true tokens before them.

    .. code-block:: python

        base = BaseDistributions({"mini_math": examples}, pad_token_id=0)
        base.remember(model)
        ...  # train
        base.divergence(model, ["mini_math"]).nats

    Args:
        examples: Of each task; those without a supervised token do not count.
        pad_token_id: Fills up shorter rows.
        top: See :data:`TOP`.
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[EncodedExample]],
        pad_token_id: int,
        top: int = TOP,
    ) -> None:
        self.top = top
        self._pad = pad_token_id
        self._examples = {
            task: [example for example in given if any(example.supervised[1:])]
            for task, given in examples.items()
        }
        self._kept: dict[str, list[_Kept]] = {}

    @property
    def bytes(self) -> int:
        """What is kept of the base model."""
        kept = [part for parts in self._kept.values() for found in parts for part in found]
        return sum(part.numel() * part.element_size() for part in kept)

    def remember(self, model: nn.Module) -> None:
        """Keep the distributions of the base model, in evaluation mode."""
        for task in self._examples:
            self._kept[task] = []
            for logs in self._distributions(model, task):
                tokens = logs.topk(min(self.top, logs.shape[1]), dim=1).indices
                found = _classes(logs, tokens)
                self._kept[task].append(_Kept(tokens.to("cpu", torch.int32), found.cpu()))

    def divergence(self, model: nn.Module, tasks: Sequence[str]) -> Divergence | None:
        """How far a model is from the base model on the examples of some tasks.

        Args:
            model: Has the base model's vocabulary; in any mode, measured in evaluation mode.
            tasks: Which ones; their tokens count alike.

        Returns:
            ``None`` where no example has a supervised token.
        """
        total, count = 0.0, 0
        for task in tasks:
            distributions = self._distributions(model, task)
            for kept, logs in zip(self._kept[task], distributions, strict=True):
                base = kept.log_probabilities.double()
                found = _classes(logs, kept.tokens.to(logs.device, torch.int64)).cpu().double()
                share = base.exp()
                terms = torch.where(share > 0, share * (base - found), torch.zeros_like(share))
                total += float(terms.sum())
                count += len(base)
        # of equal distributions the sum may be a rounding error below 0
        return Divergence(max(total, 0.0) / count, count) if count else None

    @torch.no_grad()
    def _distributions(self, model: nn.Module, task: str) -> Iterator[Tensor]:
        """Log-probabilities of every token (positions, vocabulary), some positions at a time."""
        was_training = model.training
        model.eval()
        try:
            for _, batch in batches_by_length(self._examples[task], self._pad, ROWS, model):
                found = supervised_logits(model, batch)
                for logits in found.logits[found.predicting].split(POSITIONS):
                    yield torch.log_softmax(logits.float(), dim=-1)
        finally:
            model.train(was_training)


def _classes(logs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and last of all others together; changes its input."""
    chosen = logs.gather(1, tokens)
    rest = logs.scatter_(1, tokens, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen, rest], dim=1)
