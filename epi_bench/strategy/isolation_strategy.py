"""The hooks that every mask strategy shares: observe, restore, and move the mask when it is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from epi_bench.errors import UserError
from epi_bench.isolation.engine import Isolation
from epi_bench.isolation.optimizer_moment import no_second_moment
from epi_bench.strategy.hooks import Experience, Step
from epi_bench.strategy.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.spec.run_spec import TrainingSpec


BASE_EXAMPLES = 256
"""Of the base model's text, at most, on which its importance is measured."""

BASE_BATCH = 8
"""Examples whose mean gradient is squared there."""


class IsolationStrategy(Strategy):
    """Base of the strategies that hold a share of the weights still.

    A subclass says in :meth:`refresh_due` when the mask moves and in :meth:`refresh` where to.
    Between two refreshes a protected weight is bit-identical, whatever the optimizer does.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1).
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
        engine: Keyword arguments of :class:`Isolation` beside the ratio.
    """

    later_options: ClassVar[Mapping[str, Any]] = {"importance": "ema", "offload": False}

    family = "mask"

    changes_gradients: ClassVar[bool] = False

    def __init__(self, ratio: float, interval: int, warmup: int, **engine: Any) -> None:
        if not 0 <= ratio < 1:
            raise UserError(f"{self.name}: ratio={ratio} must lie in [0, 1)")
        if interval < 1:
            raise UserError(f"{self.name}: interval={interval} must be at least 1")
        if warmup < 0:
            raise UserError(f"{self.name}: warmup={warmup} must be at least 0")
        self.ratio = ratio
        self.interval = interval
        self.warmup = warmup
        self._engine_options = engine
        self._engine: Isolation | None = None
        self._refreshes = 0

    @property
    def isolation(self) -> Isolation:
        """The engine; it exists from the first experience on."""
        if self._engine is None:
            self._engine = Isolation(
                self.context.model.named_parameters(),
                ratio=self.ratio,
                seed=self.context.seed,
                **self._engine_options,
            )
        return self._engine

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether there is a second moment to read, and whether the mask is ever taken."""
        self.check_importance(training)
        if self.ratio > 0 and self.warmup > sum(steps) and self.protect_base == "none":
            return [
                f"{self.name} never protects anything: its warm-up of {self.warmup} steps is "
                f"longer than the run of {sum(steps)}; lower its option warmup"
            ]
        return ()

    def check_importance(self, training: TrainingSpec) -> None:
        """Whether the run's optimizer keeps the second moment that may have to be read.

        Raises:
            UserError: If it does not.
        """
        if self._engine_options.get("importance") != "optimizer":
            return
        if training.optimizer != "adamw":
            raise no_second_moment(training.optimizer)
        if self.protect_base != "none":
            raise UserError(
                f"{self.name}: importance=optimizer has nothing to read before the first step, so "
                "the base cannot be protected: choose another importance or protect_base=none"
            )

    def protect_base_now(self) -> None:
        """Take the base model's gradients into the importance, and protect by it.

        For :meth:`begin_training` of subclasses with an option ``protect_base``; without it nothing
        happens. The gradients are those of batches of ``BASE_BATCH`` examples, as in training.
        """
        if self.protect_base == "none" or self.ratio == 0:
            return
        model = self.context.model
        was_training = model.training
        model.eval()
        base = self.context.base_experience(self.protect_base, BASE_EXAMPLES)
        for batch in self.context.batches(base.examples, BASE_BATCH):
            self.context.loss(model, batch).backward()
            self.isolation.observe()
            model.zero_grad(set_to_none=True)
        model.train(was_training)
        self.refresh()
        self._refreshes += 1

    def refresh_due(self, step: Step) -> bool:
        """Whether the mask moves after this step: every ``interval`` steps after ``warmup``."""
        return step.number >= self.warmup and (step.number - self.warmup) % self.interval == 0

    def refresh(self) -> None:
        """Move the mask to the weights that are important now."""
        self.isolation.refresh()

    def gradients_ready(self, step: Step) -> None:
        """Take the step's gradients into the importance."""
        if self.ratio > 0:
            self.isolation.attach_optimizer(step.optimizer)
            self.isolation.observe(finite=True)  # the loop skips other steps

    def parameters_updated(self, step: Step) -> None:
        """Undo what the optimizer did to protected weights; then move the mask if it is due."""
        if self.ratio == 0:
            return
        self.isolation.restore()
        if self.refresh_due(step):
            self.refresh()
            self._refreshes += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's state, and how often the mask has moved."""
        if self._engine is None:
            return {}
        return {**self._engine.state_dict(), "refreshes": torch.tensor(self._refreshes)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        if state:
            self.isolation.load_state_dict(state)
            if self.context.optimizer is not None:  # read where an experience ends, too
                self.isolation.attach_optimizer(self.context.optimizer)
            self._refreshes = int(state["refreshes"])

    def state_bytes(self) -> int:
        """Bytes of importance, mask and saved values."""
        return self._engine.state_bytes() if self._engine else 0

    def diagnostics(self) -> dict[str, float]:
        """The mask's statistics, once there is a mask."""
        if self._engine is None or not self._refreshes:
            return {}
        return {"refreshes": float(self._refreshes), **self._engine.statistics()}

    def end_experience(self, experience: Experience) -> None:
        """Keep the mask for comparison; subclasses that choose one here do so before."""
        if self._engine is not None and self._refreshes:
            self._engine.end_experience()
