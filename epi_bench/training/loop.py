"""The training loop: one experience at a time, on accelerate, with the strategy's hooks.

The loop owns devices, precision, clipping, schedules and batches. It knows no strategy by name:
whatever a strategy does, it does in its hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import torch
from accelerate import Accelerator
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.model.batching import drawn_steps
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.precision import WeightPrecision
from epi_bench.model.weight_movement import WeightMovement
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience, Step, no_second_pass
from epi_bench.strategy.low_rank_adapter import LowRankAdapter
from epi_bench.strategy.strategy import Strategy
from epi_bench.training.context import BaseTexts, TaskKnowledge, TrainingContext
from epi_bench.training.cost import TrainingCost
from epi_bench.training.example_checks import check_each_is_supervised, check_some_count
from epi_bench.training.loop_state import (
    LoopState,
    ModelState,
    StateMismatchError,
    drawn_examples,
    drawn_state,
    dropout_state,
    optimizer_state,
    put_dropout_state,
    put_optimizer_state,
    put_random_state,
    random_state,
    trained_names,
)
from epi_bench.training.micro_batches import BackwardPass, MicroBatches
from epi_bench.training.optimizer import build_optimizer
from epi_bench.training.plain_steps import PlainSteps
from epi_bench.training.schedule import learning_rate_share, set_learning_rate
from epi_bench.training.strategy_state import put_strategy_state, strategy_state

if TYPE_CHECKING:
    from torch import Tensor


OnStep = Callable[[Step, float], None]
"""Called after each optimizer step with the step and its learning rate."""


@dataclass
class _Place:
    """Where the loop is in an experience.

    Attributes:
        experience: Its index.
        examples: What its batches are drawn from.
        own: The experience's own examples.
        optimizer: That steps it.
        peak: Of the learning rate.
        steps: How many have been made.
        is_over: Whether the strategy has ended it before its last step.
    """

    experience: int
    examples: Sequence[EncodedExample]
    own: Sequence[EncodedExample]
    optimizer: torch.optim.Optimizer
    peak: float
    steps: int = 0
    is_over: bool = False


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
        base_texts: Gives strategies that ask for it examples of what the base model can do.
        stream: All experiences, for strategies that need all tasks from the beginning.
        tasks: Scores answers for strategies that let the model write some.
        adapter: Put on the model before the strategy prepares it, or ``None``.

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
    _model_state: ModelState

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
        base_texts: BaseTexts | None = None,
        stream: Sequence[Experience] | None = None,
        tasks: TaskKnowledge | None = None,
        adapter: LowRankAdapter | None = None,
    ) -> None:
        self.spec = spec
        self.strategy = strategy
        self.model = model
        self.adapter = adapter
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
            base_texts=base_texts,
            stream=stream if "all tasks" in strategy.needs else None,
            cost=self.cost,
            train_plainly=self._train_plainly,
            tasks=tasks,
        )
        self._is_started = False
        self._has_begun = False
        self._is_at_rest = True
        self._clock: float | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._place: _Place | None = None
        self._skipped_in_a_row = 0
        self._last_good_step = 0

    def start(self) -> Self:
        """Move the model to its device, put the adapter on it, and let it be prepared.

        First the strategy prepares it, then accelerate.

        Returns:
            The loop itself, ready to train.

        Raises:
            UserError: If the model has nothing to train.
        """
        self.strategy.context = self.context
        loaded = dict(self.model.named_parameters())
        model = self.model.to(self.accelerator.device)
        if self.adapter is not None:
            model = self.adapter.wrap(model)
        self.context.model = model
        self.model = self.strategy.prepare_model(model)
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
        self._model_state = ModelState()
        self._is_started = True
        return self

    def train(
        self,
        experience: Experience,
        on_step: OnStep | None = None,
        pauses: Sequence[int] = (),
        on_pause: Callable[[int], None] | None = None,
        *,
        undivided: Callable[[], AbstractContextManager[object]] = nullcontext,
        at_rest: Callable[[], None] | None = None,
        before_end: Callable[[], None] | None = None,
    ) -> None:
        """Train one experience, or the rest of it after :meth:`load_state_dict`.

        Args:
            experience: Its examples and number of steps.
            on_step: Called after each optimizer step.
            pauses: Steps of the experience after which ``on_pause`` is called; the time spent
                there is not training time. It is called again where the loop goes on right after
                such a step. Where the strategy ends the experience early, it is called at its end
                for those that were not reached.
            on_pause: Called with the step's number in the experience.
            undivided: Gives a context manager in which each step is made, ``on_step`` and
                ``at_rest`` included: what must not come in between is held off there.
            at_rest: Called after each step, when :meth:`state_dict` may be called; the time spent
                there is not training time.
            before_end: Called in the same way, once, before the strategy's ``end_experience``.

        Raises:
            TrainingFailedError: If the loss is not finite, or the gradients of
                ``spec.max_skipped_steps`` steps in a row; fewer such steps are skipped.
        """
        if not self._is_started:
            raise RuntimeError("call start() before train()")
        self._clock = perf_counter()
        place = self._place or self._enter(experience)
        if place.experience != experience.index:
            raise RuntimeError(f"the loop is to go on in experience {place.experience}")
        if place.steps in pauses and on_pause:
            self._rest(partial(on_pause, place.steps))
        self._place = place
        first = place.steps + 1
        drawn = islice(self._drawn_steps(place.examples, experience), place.steps, None)
        optimizer = place.optimizer
        self.model.train()
        for number in range(first, experience.steps + 1):
            if place.is_over:
                break
            rate = place.peak * learning_rate_share(number, experience.steps, self.spec)
            with undivided():
                set_learning_rate(optimizer, rate)
                self._is_at_rest = False
                step = self._step(experience, number, optimizer, next(drawn))
                if on_step:
                    on_step(step, rate)
                place.steps, place.is_over = number, step.ends_early
                self._is_at_rest = True
                if at_rest:
                    self._rest(at_rest)
            if number in pauses and on_pause:
                self._rest(partial(on_pause, number))
                self.model.train()
        for number in pauses if on_pause else ():
            if on_pause and number > place.steps:
                self._rest(partial(on_pause, number))
        if before_end:
            self._rest(before_end)
        self._is_at_rest = False
        if place.is_over:
            self.cost.steps_made[str(experience.index)] = place.steps
        self.strategy.end_experience(experience)
        self.model.eval()
        self._leave()

    @contextmanager
    def as_finished(self) -> Iterator[nn.Module]:
        """The model as :meth:`finalize_model` would make it; afterwards it is as it was."""
        with self.strategy.as_finished(self.model) as model:
            if self.adapter is None:
                yield model
            else:
                with self.adapter.as_merged(model) as merged:
                    yield merged

    def finalize_model(self) -> nn.Module:
        """End the training: the model as the strategy finishes it, with the adapter merged.

        Raises:
            TrainingFailedError: If the merged model is not the trained one.
        """
        model = self.strategy.finalize_model(self.model)
        return model if self.adapter is None else self.adapter.merge(model)

    def _enter(self, experience: Experience) -> _Place:
        """Begin an experience."""
        self._is_at_rest = False
        if not self._has_begun:
            self.strategy.begin_training()
            self._has_begun = True
        self.strategy.begin_experience(experience)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.cost.trained_parameters = max(self.cost.trained_parameters, trained)
        examples = self._training_examples(experience)
        peak = self.spec.learning_rate * self.strategy.learning_rate_factor
        optimizer = self._experience_optimizer(peak)
        return _Place(experience.index, examples, experience.examples, optimizer, peak)

    def _leave(self) -> None:
        """End an experience; the next one makes an optimizer of its own, or takes this one."""
        self._place = None
        self._is_at_rest = True
        self.context.optimizer = None if self.spec.fresh_optimizer else self._optimizer
        self._count_time()
        self._clock = None

    def _rest(self, during: Callable[[], None]) -> None:
        """Do something whose time is not training time."""
        self._count_time()
        during()
        self._clock = perf_counter()

    def _count_time(self) -> None:
        """Add the time since the last reading of the clock to the cost."""
        if self._clock is not None:
            now = perf_counter()
            self.cost.seconds += now - self._clock
            self._clock = now

    @property
    def place(self) -> tuple[int | None, int]:
        """Index of the experience under way and the steps made in it; ``None`` between two."""
        return (self._place.experience, self._place.steps) if self._place else (None, 0)

    def remember_start(self) -> None:
        """Find out what of the model need not be saved; call after :meth:`start`.

        Otherwise :meth:`state_dict` gives frozen weights too. Reads all of them once.
        """
        self._model_state = ModelState(self.model)

    def state_dict(self) -> LoopState:
        """Everything from which a loop of the same run goes on, bit for bit.

        May be called before and after each experience, after each step (``at_rest``), and in a
        pause. Tensors are those of the loop, not copies.

        Raises:
            RuntimeError: If a step or a hook is under way.
        """
        if not self._is_at_rest:
            raise RuntimeError("a step or a hook is under way: the loop's state is not complete")
        self._count_time()
        model, changed = self._model_state.take(self.model)
        masters, rounding = self.precision.state_dict()
        random_values, generators = random_state()
        values: dict[str, Any] = {
            "model": model,
            "masters": masters,
            "random": random_values,
            "cost": asdict(self.cost),
            "steps_done": self.steps_done,
            "last_good_step": self._last_good_step,
            "skipped_in_a_row": self._skipped_in_a_row,
            "place": None,
            "optimizer": None,
        }
        values["strategy"], strategy = strategy_state(self.strategy, self.model)
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": changed,
            "strategy": strategy,
            "random": generators,
        }
        if rounding is not None:
            tensors["rounding"] = {"generator": rounding}
        if (place := self._place) is not None:
            values["place"] = {
                "experience": place.experience, "steps": place.steps, "peak": place.peak,
                "is_over": place.is_over,
            }  # fmt: skip
            tensors["examples"] = drawn_state(place.examples, place.own)
        if self.context.optimizer is not None:
            values["optimizer"], tensors["optimizer"] = optimizer_state(
                self.context.optimizer, self.model
            )
        return LoopState(values, tensors)

    def load_state_dict(self, state: LoopState, experiences: Sequence[Experience]) -> None:
        """Go on where another loop of the same run was; call after :meth:`start`.

        The strategy's ``load_state_dict`` is called once the weights and the optimizer are there.
        If the state was taken within an experience, the next :meth:`train` must be of that
        experience: it goes on after the last step, without ``begin_experience`` and
        ``training_examples``.

        Args:
            state: As :meth:`state_dict` gave it.
            experiences: The whole stream.

        Raises:
            StateMismatchError: If it is not a state of this run; this loop is of no use then.
        """
        values, tensors = state.values, state.tensors
        rounding = tensors.get("rounding", {}).get("generator")
        self.precision.load_state_dict(self.model, values["masters"], rounding)
        self._model_state.put(self.model, values["model"], tensors["model"])
        if values["optimizer"] is not None:
            self._load_optimizer(values["optimizer"], tensors.get("optimizer", {}))
        put_strategy_state(
            self.strategy,
            self.model,
            self.context.device,
            values["strategy"],
            tensors.get("strategy", {}),
        )
        for name, value in values["cost"].items():
            setattr(self.cost, name, value)
        self.steps_done = values["steps_done"]
        self._has_begun = self.steps_done > 0 or values["place"] is not None
        self._last_good_step = values["last_good_step"]
        self._skipped_in_a_row = values["skipped_in_a_row"]
        if (place := values["place"]) is not None:
            own = experiences[place["experience"]].examples
            if self._optimizer is None:
                raise StateMismatchError("the optimizer of the experience was not saved")
            self._place = _Place(
                place["experience"],
                drawn_examples(tensors["examples"], own),
                own,
                self._optimizer,
                place["peak"],
                place["steps"],
                place["is_over"],
            )
        put_random_state(values["random"], tensors["random"])

    def _load_optimizer(
        self, groups: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]
    ) -> None:
        """Make the optimizer of those parameters that the saved one had, and give it its state."""
        trained = set(trained_names(self.model))
        stepped = {name for group in groups for name in group["parameters"]}
        parameters = dict(self.model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in stepped)
        optimizer = build_optimizer(parameters.values(), self.spec, self.spec.learning_rate)
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trained)
        put_optimizer_state(optimizer, self.model, groups, tensors)
        self._optimizer = self.context.optimizer = optimizer

    def _step(
        self,
        experience: Experience,
        number: int,
        optimizer: torch.optim.Optimizer,
        examples: Sequence[EncodedExample],
    ) -> Step:
        drawn_from = dropout_state(self.accelerator.device)
        done = self._backward(examples)
        self.cost.tokens += done.tokens
        self.cost.supervised_tokens += done.supervised_tokens
        norm = self._micro_batches.gradient_norm()
        loss_is_finite, finite = torch.isfinite(torch.stack([done.loss, norm])).tolist()
        if not loss_is_finite:
            raise TrainingFailedError(
                f"the loss is {done.loss.item()} at step {number} of {experience.name!r}: "
                f"lower the learning rate or turn clipping on{self._good_until()}"
            )
        self.steps_done += 1
        step = Step(self.steps_done, number, experience, self.model, optimizer, done.loss)
        step.recompute_gradients = partial(self._recompute, step, examples, drawn_from)
        if finite:
            self._update(step, norm)
            step.ends_early = number < experience.steps and self.strategy.stop_experience(step)
            self._skipped_in_a_row = 0
            self._last_good_step = self.steps_done
        else:
            self._skip(step)
        optimizer.zero_grad(set_to_none=True)
        # A step that refers to itself would keep its optimizer's moments until they are collected.
        step.recompute_gradients = no_second_pass
        return step

    def _backward(self, examples: Sequence[EncodedExample]) -> BackwardPass:
        return self._micro_batches.backward(
            examples, lambda: self.strategy.penalty(self.model), self.strategy
        )

    def _recompute(
        self, step: Step, examples: Sequence[EncodedExample], drawn_from: Sequence[Tensor]
    ) -> Tensor:
        """The gradients of a step once more, at the weights of now; dropout draws as before."""
        step.optimizer.zero_grad(set_to_none=True)
        put_dropout_state(self.accelerator.device, drawn_from)
        done = self._backward(examples)
        self.cost.extra_tokens += done.tokens
        found = torch.stack([done.loss, self._micro_batches.gradient_norm()])
        if not bool(torch.isfinite(found).all()):
            raise TrainingFailedError(
                f"the second gradients of step {step.number_in_experience} of "
                f"{step.experience.name!r} are not finite: lower the learning rate, or what "
                f"{self.strategy.name} moves the weights by in between{self._good_until()}"
            )
        return done.loss

    def _train_plainly(self, examples: Sequence[EncodedExample], steps: int, purpose: str) -> None:
        """What ``context.probe`` does."""
        plain = PlainSteps(
            self._wrapped,
            self.spec,
            self._micro_batches,
            self.precision,
            self.accelerator.num_processes,
        )
        generator = self.context.generator(f"batches of {purpose}")
        self.cost.extra_tokens += plain.train(examples, steps, generator, purpose)

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
                f"learning rate, or train in float32{self._good_until()}"
            )

    def _good_until(self) -> str:
        """The end of a message: which step was the last that did what it should."""
        if not self._last_good_step:
            return "; no step before it was good"
        return f"; the last good step was {self._last_good_step} of {self.context.total_steps}"

    def _experience_optimizer(self, peak: float) -> torch.optim.Optimizer:
        """A new optimizer, or where the run says so the one of the experience before."""
        if self._optimizer is None or self.spec.fresh_optimizer:
            self.precision.take_masters(self.model)  # the strategy may train others by now
            self._optimizer = build_optimizer(self._wrapped.parameters(), self.spec, peak)
        self.context.optimizer = self._optimizer
        return self._optimizer

    def _training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """What the strategy wants trained, checked: every example has something to learn."""
        examples = self.strategy.training_examples(experience)
        check_some_count(examples, experience)
        check_each_is_supervised(examples, experience)
        return examples

    def _drawn_steps(
        self, examples: Sequence[EncodedExample], experience: Experience
    ) -> Iterator[list[EncodedExample]]:
        """The examples of each step, over all processes; an iterator that never ends."""
        generator = self.context.generator(f"batches of experience {experience.index}")
        size = self.spec.examples_a_step(self.accelerator.num_processes)
        for positions in drawn_steps(len(examples), size, generator):
            yield [examples[position] for position in positions]
