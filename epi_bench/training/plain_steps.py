"""Steps of plain fine-tuning on behalf of a strategy, between the steps of the run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.model.batching import drawn_steps
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.precision import WeightPrecision
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.micro_batches import MicroBatches
from epi_bench.training.optimizer import build_optimizer
from epi_bench.training.schedule import learning_rate_share, set_learning_rate


@dataclass(frozen=True)
class PlainSteps:
    """Trains a model as full fine-tuning does, without any hook.

    Args:
        model: As accelerate prepared it.
        spec: Of the run: batch, optimizer, schedule, clipping.
        micro_batches: Of the same model.
        precision: In which its weights are trained.
        processes: Processes that train together.
    """

    model: nn.Module
    spec: TrainingSpec
    micro_batches: MicroBatches
    precision: WeightPrecision
    processes: int

    def train(
        self,
        examples: Sequence[EncodedExample],
        steps: int,
        generator: random.Random,
        purpose: str,
    ) -> int:
        """Make some steps, with an optimizer and a schedule of their own.

        A step whose gradients are not finite is left out.

        Args:
            examples: What the batches are drawn from.
            steps: How many, at least 1.
            generator: Of the draws.
            purpose: What it is for, in messages.

        Returns:
            How many tokens went through the model.

        Raises:
            TrainingFailedError: If the loss is not finite.
        """
        if steps < 1:
            raise UserError(f"the {purpose} needs at least 1 step, not {steps}")
        spec, tokens, was_training = self.spec, 0, self.model.training
        self.model.train()
        optimizer = build_optimizer(self.model.parameters(), spec, spec.learning_rate)
        drawn = drawn_steps(len(examples), spec.examples_a_step(self.processes), generator)
        for number, positions in enumerate(islice(drawn, steps), start=1):
            share = learning_rate_share(number, steps, spec)
            set_learning_rate(optimizer, spec.learning_rate * share)
            done = self.micro_batches.backward([examples[p] for p in positions], lambda: None)
            tokens += done.tokens
            norm = self.micro_batches.gradient_norm()
            if not bool(torch.isfinite(done.loss)):
                raise TrainingFailedError(
                    f"the loss is {done.loss.item()} at step {number} of the {purpose}: lower the "
                    "learning rate or turn clipping on"
                )
            if bool(torch.isfinite(norm)):
                if spec.max_gradient_norm > 0:
                    nn.utils.clip_grads_with_norm_(
                        self.model.parameters(), spec.max_gradient_norm, norm
                    )
                self.precision.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.model.train(was_training)
        return tokens
