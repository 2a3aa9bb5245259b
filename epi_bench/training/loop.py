"""The training loop: one experience at a time, on accelerate, with the strategy's hooks.

The loop owns devices, precision, clipping, schedules and batches. It knows no strategy by name:
whatever a strategy does, it does in its hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Self

import torch
from accelerate import Accelerator
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.model.batching import drawn_steps
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.precision import WeightPrecision
from epi_bench.model.weight_movement import WeightMovement
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience, Step
from epi_bench.strategy.strategy import Strategy
from epi_bench.training.context import TrainingContext
from epi_bench.training.cost import TrainingCost
from epi_bench.training.micro_batches import MicroBatches, predicted_tokens
from epi_bench.training.optimizer import build_optimizer
from epi_bench.training.schedule import learning_rate_share, set_learning_rate

if TYPE_CHECKING:
    from torch import Tensor


OnStep = Callable[[Step, float], None]
"""Called after each optimizer step with the step and its learning rate."""


class TrainingLoop:
    """Trains a model on experiences, calling the strategy's hooks.

    Args:
        spec: Budget, optimizer, schedule, precision.
        strategy: Its ``context`` is set by :meth:`start`, before the first hook.
        model: A causal language model on the CPU.
        pad_token_id: Fills short rows.
        seed: Of the batches' order.
        accelerator: As :func:`create_accelerator` gives it.
        total_steps: Steps of the whole stream.
        experience_count: Experiences of the whole stream.

    Attributes:
        model: The model that is trained; after :meth:`start` as the strategy prepared it.
        cost: What training has cost so far.
        steps_done: Optimizer steps so far, over all experiences.
        context: What the strategy is offered.
        precision: In which the weights are trained, scored and saved; there after :meth:`start`.
        movement: How many weights training has moved; there after :meth:`start`.

    Example:
        .. code-block:: python

            loop = TrainingLoop(spec=spec, strategy=create_strategy("epi", {}), ...).start()
            for experience in experiences:
                loop.train(experience)
    """

    precision: WeightPrecision
    movement: WeightMovement
    _wrapped: nn.Module
    _micro_batches: MicroBatches

    def __init__(
        self,
        *,
        spec: TrainingSpec,
        strategy: Strategy,
        model: nn.Module,
        pad_token_id: int,
        seed: int,
        accelerator: Accelerator,
        total_steps: int,
        experience_count: int,
    ) -> None:
        self.spec = spec
        self.strategy = strategy
        self.model = model
        self.accelerator = accelerator
        self.cost = TrainingCost()
        self.steps_done = 0
        self.context = TrainingContext(
            model=model,
            seed=seed,
            device=accelerator.device,
            pad_token_id=pad_token_id,
            total_steps=total_steps,
            experience_count=experience_count,
        )
        self._is_started = False
        self._optimizer: torch.optim.Optimizer | None = None
        self._skipped_in_a_row = 0

    def start(self) -> Self:
        """Move the model to its device, and let the strategy and accelerate prepare it.

        Returns:
            The loop itself, ready to train.

        Raises:
            UserError: If the model has nothing to train.
        """
        self.strategy.context = self.context
        loaded = dict(self.model.named_parameters())
        self.model = self.strategy.prepare_model(self.model.to(self.accelerator.device))
        self.movement = WeightMovement(
            loaded, self.model, self.context.torch_generator("weights that are watched")
        )
        rounding = self.context.torch_generator("stochastic rounding").initial_seed()
        self.precision = WeightPrecision(self.spec.master_weights, rounding)
        self.precision.take_masters(self.model)
        if self.spec.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()  # type: ignore[operator]
        self.context.model = self.model
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError(
                "the model has no trainable parameters: set requires_grad on what is to be trained"
            )
        self._wrapped = self.accelerator.prepare_model(self.model)
        self._micro_batches = MicroBatches(
            self._wrapped, self.accelerator, self.spec.batch_size, self.context.pad_token_id
        )
        self._is_started = True
        return self

    def train(
        self,
        experience: Experience,
        on_step: OnStep | None = None,
        pauses: Sequence[int] = (),
        on_pause: Callable[[int], None] | None = None,
    ) -> None:
        """Train one experience.

        Args:
            experience: Its examples and number of steps.
            on_step: Called after each optimizer step.
            pauses: Steps of the experience after which ``on_pause`` is called; the time spent
                there is not training time.
            on_pause: Called with the step's number in the experience.

        Raises:
            TrainingFailedError: If the loss is not finite, or the gradients of
                ``spec.max_skipped_steps`` steps in a row; fewer such steps are skipped.
        """
        if not self._is_started:
            raise RuntimeError("call start() before train()")
        started = perf_counter()
        self.strategy.begin_experience(experience)
        steps = self._drawn_steps(self._training_examples(experience), experience)
        peak = self.spec.learning_rate * self.strategy.learning_rate_factor
        optimizer = self._experience_optimizer(peak)
        self.model.train()
        for number in range(1, experience.steps + 1):
            rate = peak * learning_rate_share(number, experience.steps, self.spec)
            set_learning_rate(optimizer, rate)
            step = self._step(experience, number, optimizer, next(steps))
            if on_step:
                on_step(step, rate)
            if number in pauses and on_pause:
                self.cost.seconds += perf_counter() - started
                on_pause(number)
                self.model.train()
                started = perf_counter()
        self.strategy.end_experience(experience)
        self.model.eval()
        self.cost.seconds += perf_counter() - started

    def _step(
        self,
        experience: Experience,
        number: int,
        optimizer: torch.optim.Optimizer,
        examples: Sequence[EncodedExample],
    ) -> Step:
        done = self._micro_batches.backward(examples, lambda: self.strategy.penalty(self.model))
        self.cost.tokens += done.tokens
        self.cost.supervised_tokens += done.supervised_tokens
        norm = self._micro_batches.gradient_norm()
        loss_is_finite, finite = torch.isfinite(torch.stack([done.loss, norm])).tolist()
        if not loss_is_finite:
            raise TrainingFailedError(
                f"the loss is {done.loss.item()} at step {number} of {experience.name!r}: "
                "lower the learning rate or turn clipping on"
            )
        self.steps_done += 1
        step = Step(self.steps_done, number, experience, self.model, optimizer, done.loss)
        if finite:
            self._update(step, norm)
            self._skipped_in_a_row = 0
        else:
            self._skip(step)
        optimizer.zero_grad(set_to_none=True)
        return step

    def _update(self, step: Step, norm: Tensor) -> None:
        self.strategy.gradients_ready(step)
        if self.spec.max_gradient_norm > 0:
            if self.strategy.changes_gradients:
                norm = self._micro_batches.gradient_norm()
            nn.utils.clip_grads_with_norm_(
                self._wrapped.parameters(), self.spec.max_gradient_norm, norm
            )
        self.precision.step(step.optimizer)
        self.strategy.parameters_updated(step)

    def _skip(self, step: Step) -> None:
        """Leave model, optimizer and strategy as they are; too many such steps end the run."""
        step.skipped = True
        self.cost.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.spec.max_skipped_steps:
            raise TrainingFailedError(
                f"the gradients of {self._skipped_in_a_row} steps in a row were not finite, the "
                f"last at step {step.number_in_experience} of {step.experience.name!r}: lower the "
                "learning rate, or train in float32"
            )

    def _experience_optimizer(self, peak: float) -> torch.optim.Optimizer:
        """A new optimizer, or where the run says so the one of the experience before."""
        if self._optimizer is None or self.spec.fresh_optimizer:
            self.precision.take_masters(self.model)  # the strategy may train others by now
            self._optimizer = build_optimizer(self._wrapped.parameters(), self.spec, peak)
        return self._optimizer

    def _training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """What the strategy wants trained, checked: every example has something to learn."""
        examples = self.strategy.training_examples(experience)
        if not examples:
            raise TrainingFailedError(
                f"there is nothing to train in {experience.name!r}: the strategy's "
                "training_examples returned no example"
            )
        empty = sum(not predicted_tokens(example) for example in examples)
        if empty:
            raise TrainingFailedError(
                f"{empty} of {len(examples)} training examples of {experience.name!r} have no "
                "supervised token after their first: leave them out of what the task or the "
                "strategy's training_examples returns"
            )
        return examples

    def _drawn_steps(
        self, examples: Sequence[EncodedExample], experience: Experience
    ) -> Iterator[list[EncodedExample]]:
        """The examples of each step, over all processes; an iterator that never ends."""
        generator = self.context.generator(f"batches of experience {experience.index}")
        size = self.spec.examples_a_step(self.accelerator.num_processes)
        for positions in drawn_steps(len(examples), size, generator):
            yield [examples[position] for position in positions]
