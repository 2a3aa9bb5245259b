"""The gradients of an optimizer step, over its micro-batches and over several processes.

What is in a step is given; here it is cut into what goes through the model at once. However it is
cut, the gradient is that of the mean loss of all supervised tokens of the step: a sum over tokens,
each with its weight, divided by the number of supervised tokens of the whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from epi_bench.model.batching import SPLIT_COST, collate, cut_by_padding, cut_evenly
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import TokenHooks, training_loss

if TYPE_CHECKING:
    from torch import Tensor


class BackwardPass(NamedTuple):
    """What went through the model in one optimizer step, over all processes.

    Attributes:
        loss: Mean loss of the supervised tokens, in nats, detached, a scalar tensor.
        tokens: All tokens, padding left out.
        supervised_tokens: Those among them that carried loss.
    """

    loss: Tensor
    tokens: int
    supervised_tokens: int


class MicroBatches:
    """Cuts optimizer steps into micro-batches and accumulates their gradients.

    Args:
        model: As accelerate prepared it, with its wrapper for several processes.
        accelerator: Knows device and processes.
        batch_size: Most examples of a micro-batch.
        pad_token_id: Fills short rows.
    """

    def __init__(
        self, model: nn.Module, accelerator: Accelerator, batch_size: int, pad_token_id: int
    ) -> None:
        self._model = model
        self._accelerator = accelerator
        self._batch_size = batch_size
        self._pad = pad_token_id

    def backward(
        self,
        examples: Sequence[EncodedExample],
        penalty: Callable[[], Tensor | None],
        hooks: TokenHooks | None = None,
    ) -> BackwardPass:
        """Add the gradients of a whole step to those of the parameters.

        Args:
            examples: Of the step, over all processes; together they have a supervised token.
            penalty: Called once, after the last micro-batch's forward pass, for a scalar that is
                added to the step's loss, or ``None``.
            hooks: Weigh the tokens of each micro-batch, and add to the sum of their losses.
        """
        device, processes = self._accelerator.device, self._accelerator.num_processes
        supervised = sum(map(predicted_tokens, examples))
        micro_batches = self.cut(examples)
        total = torch.zeros((), device=device)
        for position, part in enumerate(micro_batches):
            is_last = position == len(micro_batches) - 1
            with self._exchanging(is_last):
                batch = collate(part, self._pad, device)
                objective, summed = training_loss(self._model, batch, hooks)
                # gradients are averaged over processes afterwards, hence the factor
                loss = objective * (processes / supervised)
                added = penalty() if is_last else None
                if added is not None:
                    loss = loss + added
                self._accelerator.backward(loss)
            total += summed.detach()
        return BackwardPass(
            loss=self._sum_over_processes(total) / supervised,
            tokens=sum(map(len, examples)),
            supervised_tokens=supervised,
        )

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients together; not finite if one of them is not."""
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients).to(self._accelerator.device)

    def cut(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """This process's micro-batches of a step; every process has the same number of them."""
        lengths = [len(example) for example in examples]
        positions = range(len(examples))
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        if processes == 1 and self._accelerator.device.type == "cpu":
            cuts = cut_by_padding(positions, lengths, self._batch_size, SPLIT_COST)
        else:
            cuts = cut_evenly(positions, lengths, self._batch_size, processes)[rank]
        # a process without an example must still take part in exchanging gradients
        idle = [_without_loss(min(examples, key=len))]
        return [[examples[position] for position in cut] or idle for cut in cuts]

    def _exchanging(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients cross processes once a step, with the last micro-batch."""
        if is_last or self._accelerator.num_processes == 1:
            return nullcontext()
        return self._accelerator.no_sync(self._model)

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self._accelerator.num_processes == 1:
            return value
        summed: Tensor = self._accelerator.reduce(value, reduction="sum")
        return summed


def predicted_tokens(example: EncodedExample) -> int:
    """Supervised tokens that have a token before them to be predicted from."""
    return sum(example.supervised[1:])


def _without_loss(example: EncodedExample) -> EncodedExample:
    return EncodedExample(example.input_ids, (False,) * len(example))
