"""A strategy in a training loop that is not this package's: where it is, and what it is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epi_bench.bridges.between_steps import between_steps
from epi_bench.errors import TrainingFailedError, UserError, foreign_code
from epi_bench.model.adapted import is_adapted
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.plugins.options import check_options, complete_options, options_of
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience, Step
from epi_bench.strategy.strategy import STRATEGIES, Strategy
from epi_bench.training.context import BaseTexts, TrainingContext
from epi_bench.training.example_checks import check_some_count

UNKNOWN_STEPS = 10**9
"""Stands for a number of steps that is not known, where a strategy asks whether it is enough."""

SKIPPED_IN_A_ROW = 10
"""Steps in a row whose gradients are not finite, at which training fails."""


class StrategyRun:
    """Calls a strategy's hooks in the order of its contract, for a loop that tells where it is.

    The loop calls :meth:`prepare` once, and for each experience :meth:`enter`, then for each step
    :meth:`penalty`, :meth:`gradients_ready` and :meth:`parameters_updated`, then :meth:`leave`.

    Args:
        strategy: A registered name, or a class.
        options: The strategy's.

    Attributes:
        strategy: The strategy itself.
        name: What it is called.
        options: All of them, as JSON values.
        experience: The one under way, or ``None``.
        drawn: What its batches are drawn from.
        entered: Experiences begun so far.
        lengths: Of each of them, in optimizer steps.
        steps: Optimizer steps so far, over all experiences.
        steps_in_experience: The same in the one under way.
        skipped: Steps left out because their gradients were not finite.
        is_over: Whether the strategy has ended the experience before its last step.

    Raises:
        UserError: If the strategy or an option is unknown or wrong, or the strategy works in this
            package's own loop only.
    """

    def __init__(self, strategy: str | type[Strategy], options: Mapping[str, Any]) -> None:
        cls = STRATEGIES.get(strategy) if isinstance(strategy, str) else strategy
        self.name = cls.name or cls.__name__
        label = f"strategy {self.name!r}"
        checked = check_options(label, cls, options)
        self.options = complete_options(label, cls, options)
        with foreign_code(f"{label} cannot be made"):
            self.strategy = cls(**checked)
        if "own loop" in cls.needs:
            raise refuse(
                self.strategy,
                "computes gradients or trains beside the steps, which only epi-bench's own loop "
                "lets it do",
                "train with epi-bench run or epi_bench.run",
            )
        self.is_over = False
        self.experience: Experience | None = None
        self.drawn: Sequence[EncodedExample] = ()
        self.entered = self.steps = self.steps_in_experience = self.skipped = 0
        self._skipped_in_a_row = 0
        self._has_begun = False
        self.lengths: list[int] = []
        self._step: Step | None = None

    @property
    def context(self) -> TrainingContext:
        """What the strategy is offered."""
        return self.strategy.context  # type: ignore[return-value]

    def prepare(
        self,
        model: nn.Module,
        *,
        seed: int,
        device: torch.device,
        pad_token_id: int,
        base_texts: BaseTexts | None = None,
    ) -> nn.Module:
        """Let the strategy prepare the model; before the optimizer exists.

        Args:
            model: On its device.
            seed: Of all that the strategy draws.
            device: Where the model is.
            pad_token_id: Fills short rows.
            base_texts: Gives examples of what the base model can do, if the strategy asks.

        Returns:
            The model to train.
        """
        if self.strategy.refuses_adapter and is_adapted(model):
            raise refuse(
                self.strategy,
                f"{self.strategy.refuses_adapter}, and the model has an adapter",
                "give the model without it, or choose another strategy",
            )
        self.strategy.check_model(model)
        self.strategy.context = TrainingContext(
            model=model,
            seed=seed,
            device=device,
            pad_token_id=pad_token_id,
            total_steps=0,
            experience_count=0,
            base_texts=base_texts,
        )
        self.context.model = self.strategy.prepare_model(model)
        return self.context.model

    def enter(
        self,
        name: str,
        examples: Sequence[EncodedExample],
        steps: int | None,
        training: TrainingSpec,
    ) -> None:
        """Begin an experience.

        How many more are to come is not known, so the strategy's context counts those begun.

        Args:
            name: Of the experience.
            examples: Its own.
            steps: How many it will last; ``None`` if that is not known.
            training: What is known of the optimizer and the schedule.

        Raises:
            TrainingFailedError: If the strategy chose examples that nothing can be learned from.
        """
        self._warn_if_idle()
        lengths = [*self.lengths, UNKNOWN_STEPS if steps is None else steps]
        for warning in self.strategy.check_run(training, lengths):
            warnings.warn(warning, stacklevel=4)
        experience = Experience(self.entered, name, (name,), examples, steps or 0)
        self.context.total_steps = self.steps + (steps or 0)
        self.context.experience_count = self.entered + 1
        with between_steps(self.context.model, training=False):
            if not self._has_begun and not self.entered:
                self.strategy.begin_training()
                self._has_begun = True
            self.strategy.begin_experience(experience)
            self.drawn = self.strategy.training_examples(experience)
        if self.drawn is not examples:  # rows that are the user's own are not read for a check
            check_some_count(self.drawn, experience)
        self.experience = experience
        self.lengths = lengths
        self.entered += 1
        self.steps_in_experience = 0
        self.is_over = False

    def _warn_if_idle(self) -> None:
        """Whoever trains once with a strategy that acts later gets plain fine-tuning."""
        if self.entered or not self.strategy.acts_from:
            return
        can_protect = "protect_base" in options_of(type(self.strategy))
        warnings.warn(
            f"strategy {self.name!r} acts from experience {self.strategy.acts_from + 1} on, and "
            "trains the first one as full_sft does"
            + ("; protect_base='self' protects what the model can do now" if can_protect else ""),
            stacklevel=5,
        )

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the step, once."""
        return self.strategy.penalty(self.context.model)

    def gradients_ready(self, optimizer: torch.optim.Optimizer, loss: Tensor | None) -> bool:
        """Tell the strategy that the gradients of a step are complete.

        Args:
            optimizer: That will step.
            loss: Mean loss of the step's supervised tokens, detached; ``None`` if the loop does
                not tell it.

        Returns:
            Whether they are finite. If not, the strategy is told nothing of this step, and the
            loop must leave it out.

        Raises:
            TrainingFailedError: If too many steps in a row had such gradients.
        """
        if self.experience is None:
            raise RuntimeError("no experience is under way")
        self.context.optimizer = optimizer
        model = self.context.model
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
            self._skip()
            return False
        self._skipped_in_a_row = 0
        place = (self.steps + 1, self.steps_in_experience + 1, self.experience, model, optimizer)
        if loss is None:
            self._step = StepWithoutLoss(*place, torch.tensor(float("nan")))
        else:
            self._step = Step(*place, loss)
        self.strategy.gradients_ready(self._step)
        return True

    def parameters_updated(self) -> None:
        """Tell it that the optimizer has stepped; nothing if the step was left out."""
        self.steps += 1
        self.steps_in_experience += 1
        step, self._step = self._step, None
        if step is not None:
            self.strategy.parameters_updated(step)
            is_last = self.steps_in_experience == step.experience.steps
            self.is_over = not is_last and self.strategy.stop_experience(step)

    def leave(self, *, keeps_optimizer: bool) -> None:
        """End the experience.

        Args:
            keeps_optimizer: Whether the next experience goes on with the same optimizer.
        """
        if self.experience is None:
            raise RuntimeError("no experience is under way")
        with between_steps(self.context.model, training=True):
            self.strategy.end_experience(self.experience)
        self.experience, self.drawn = None, ()
        if not keeps_optimizer:
            self.context.optimizer = None

    def finish(self) -> nn.Module:
        """After the last experience: the model to keep."""
        with between_steps(self.context.model, training=False):
            return self.strategy.finalize_model(self.context.model)

    def statistics(self) -> dict[str, float]:
        """The strategy's diagnostics, and how many steps were left out if any was."""
        found = {name: float(value) for name, value in self.strategy.diagnostics().items()}
        return found | ({"skipped_steps": float(self.skipped)} if self.skipped else {})

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        self._step = None
        if self._skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise TrainingFailedError(
                f"the gradients of {SKIPPED_IN_A_ROW} steps in a row were not finite, the last at "
                f"step {self.steps + 1}: lower the learning rate, or train in float32"
            )


class StepWithoutLoss(Step):
    """A step of a loop that does not tell its loss: who reads it is told so."""

    __slots__ = ()

    @property
    def loss(self) -> Tensor:
        """Unknown.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "the strategy reads step.loss, which protect() does not know: use "
            "epi_bench.bridges.with_strategy"
        )

    @loss.setter
    def loss(self, value: Tensor) -> None:
        pass


def overrides(strategy: Strategy, hook: str) -> bool:
    """Whether a strategy does something in a hook.

    Args:
        strategy: Any.
        hook: Its name.
    """
    return getattr(type(strategy), hook, None) is not getattr(Strategy, hook, None)


def known_training(optimizer: str, rate: float, steps: int, is_fresh: bool) -> TrainingSpec:
    """What a strategy may ask of a training that is not this package's.

    Args:
        optimizer: What it is called, by any library.
        rate: The peak learning rate.
        steps: At least 1.
        is_fresh: Whether each experience has an optimizer of its own.
    """
    kinds = ("adafactor", "sgd", "adamw")
    kind = next((kind for kind in kinds if kind in optimizer.lower()), "adamw")
    return TrainingSpec(
        steps=steps,
        optimizer=kind,  # type: ignore[arg-type]
        learning_rate=rate if rate > 0 else 1e-9,
        fresh_optimizer=is_fresh,
    )


def refuse(strategy: Strategy, reason: str, remedy: str) -> UserError:
    """The error that a strategy cannot work in a loop."""
    return UserError(f"strategy {strategy.name or type(strategy).__name__!r} {reason}: {remedy}")
