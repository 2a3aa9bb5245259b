"""EPI for any training loop, by the step hooks of the optimizer."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from epi_bench.bridges.continuation import carry_over, check_weights, weight_checksums
from epi_bench.bridges.optimizer_steps import with_step_hooks
from epi_bench.bridges.parameters import stepped_parameters, trained_parameters
from epi_bench.bridges.step_hooks import OnOptimizer, StepActions, StepHooks, refuse_second_hooks
from epi_bench.bridges.strategy_protection import StrategyProtection
from epi_bench.errors import UserError
from epi_bench.isolation import Isolation
from epi_bench.isolation.normalisation import Normalisation
from epi_bench.isolation.optimizer_moment import (
    OptimizerMoment,
    foreseen_moments,
    refuse_moments_that_stand_still,
)

if TYPE_CHECKING:
    from epi_bench.bridges.base_texts import GeneralText
    from epi_bench.strategy.strategy import Strategy

STEPS = "bridge.steps"
REFRESHES = "bridge.refreshes"
CHECKSUMS = "bridge.checksums"


_OF_THE_LOOP = ("seed", "tokenizer", "general_text")
"""Keyword arguments of :func:`protect` that are no options of a strategy."""


@overload
def protect(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    ratio: float = 0.5,
    interval: int = 20,
    warmup: int = 20,
    beta: float = 0.999,
    normalisation: Normalisation = "mean",
    *,
    strategy: None = None,
    **isolation: Any,
) -> Protection: ...
@overload
def protect(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    strategy: str | type[Strategy],
    seed: int = 0,
    tokenizer: Any = None,
    general_text: GeneralText | None = None,
    **options: Any,
) -> StrategyProtection: ...
def protect(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *schedule: Any,
    strategy: str | type[Strategy] | None = None,
    **options: Any,
) -> Protection | StrategyProtection:
    """Give a training loop Evolving Parameter Isolation (EPI, arXiv 2604.14010) in one line.

    From now on each ``optimizer.step()`` takes the gradients into the importance, steps, and
    writes the protected weights back; every ``interval`` steps the protected set moves to what
    has become important. Between two such refreshes a protected weight is bit-identical, whatever
    moments, weight decay or clipping do. What other code writes to weights between two steps
    (weights loaded back, a model cast or moved) is held from then on::

        optimizer = torch.optim.AdamW(model.parameters())
        epi_bench.protect(optimizer, model, ratio=0.3)

    Works with every optimizer that has the step hooks of ``torch.optim.Optimizer``, third-party
    and 8-bit ones included; with closures (the first evaluation of a step is what is observed),
    gradient accumulation, learning-rate schedulers, ``GradScaler`` (steps that it skips do not
    count), optimizers wrapped by accelerate, SAM by ``first_step`` and ``second_step``, and
    schedule-free ones in both of their modes. Parameters that are added or begin to train later
    join at the next step. The importance sees the gradients as the optimizer does, that is, after
    clipping. Call it after ``optimizer.load_state_dict`` or before, but not
    before the optimizer exists in its final form: a copy of an optimizer has no hooks.

    Args:
        optimizer: Steps the weights; must train parameters of this model.
        model: Gives the parameters their names; those that are frozen or that the optimizer does
            not train are ignored, and tied ones are taken once.
        ratio: Share of all trained weights that is protected, in [0, 1); 0 protects nothing.
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
        beta: Decay of the importance ``I <- beta I + (1 - beta) g^2``, in [0, 1).
        normalisation: Of the importance within each tensor: ``min_max``, ``mean`` or ``rank``.
        **isolation: Further keyword arguments of :class:`epi_bench.Isolation`, which does the work:
            ``importance`` (``ema``, ``ema_bf16``, ``factored`` or ``optimizer``: 4, 2, about 0 or
            0 bytes a parameter), ``offload``, ``largest``, ``seed``.
        strategy: Another strategy of this package by its name, or its class; all further keyword
            arguments are then its options, but for ``seed``, of all that it draws, and for what
            ``protect_base`` needs: ``tokenizer``, and for ``protect_base="general_text"`` the
            ``general_text``, the path of a UTF-8 file or a list of texts.

    Returns:
        The protection in force: ``remove()`` ends it, and so does leaving it as a context manager;
        ``state_dict()`` lets a later run go on exactly; ``statistics()`` tells how it goes. With
        ``strategy``, a :class:`epi_bench.bridges.StrategyProtection`, which is told where an
        experience begins and ends.

    Raises:
        UserError: If a value is out of range, the optimizer has no step hooks, is protected
            already, or trains no parameter of this model.
    """
    if strategy is not None:
        if schedule:
            raise UserError("with a strategy, give its options by name")
        loop = {key: options.pop(key) for key in _OF_THE_LOOP if key in options}
        return StrategyProtection(optimizer, model, strategy, options, **loop)
    protection = Protection(optimizer, model, *schedule, **options)
    protection.attach(optimizer)
    return protection


class Protection(OnOptimizer):
    """EPI's schedule around one :class:`epi_bench.Isolation`; made by :func:`protect`.

    A loop without usable optimizer hooks makes one itself and calls :meth:`gradients_ready` before
    and :meth:`parameters_updated` after each optimizer step. The arguments are those of
    :func:`protect`.

    Attributes:
        isolation: The engine: importance, masks, protected values.
        steps: Optimizer steps seen.
        refreshes: How often the protected set was chosen.
        taken_up: How many protected weights other code than the optimizer has written to, each
            write counted.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        ratio: float = 0.5,
        interval: int = 20,
        warmup: int = 20,
        beta: float = 0.999,
        normalisation: Normalisation = "mean",
        **isolation: Any,
    ) -> None:
        if interval < 1:
            raise UserError(f"interval={interval} must be at least 1")
        if warmup < 0:
            raise UserError(f"warmup={warmup} must be at least 0")
        self.ratio = ratio
        self.interval = interval
        self.warmup = warmup
        self._model = model
        self._options: dict[str, Any] = {
            "ratio": ratio,
            "beta": beta,
            "normalisation": normalisation,
            **isolation,
        }
        self._isolate(optimizer)
        self.steps = 0
        self.refreshes = 0
        self.taken_up = 0
        self._within_step = False
        self._warned = False
        self._hooks: StepHooks | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Act on each step of this optimizer from now on, and on no other's.

        Raises:
            UserError: If it has no step hooks, another protection acts on it, or the importance is
                to be read from its second moment and it keeps none.
        """
        self.remove()
        hooked = with_step_hooks(optimizer)
        refuse_second_hooks(hooked)
        self.isolation.attach_optimizer(hooked)
        self._optimizer = weakref.ref(hooked)
        self._within_step = False
        self.take_up_changes()
        actions = StepActions(
            prepare=self._prepare,
            observe=self._observe,
            updated=self.parameters_updated,
            skipped=self._step_skipped,
        )
        self._hooks = StepHooks(optimizer, hooked, actions)

    def gradients_ready(self) -> None:
        """Take the present gradients into the importance; call before an optimizer step."""
        self._prepare()
        self._observe()

    def take_up_changes(self) -> int:
        """Hold what other code has written to protected weights since the last step.

        Each step does it first, with a warning; call it after writing to weights on purpose.

        Returns:
            How many protected weights were changed.

        Raises:
            UserError: If a parameter's shape or memory format has changed.
        """
        changed = self.isolation.take_up_changes()
        self.taken_up += changed
        return changed

    def parameters_updated(self) -> None:
        """Write protected weights back, and move the mask if it is due; call after a step."""
        self.steps += 1
        self._within_step = False
        if self.ratio == 0:
            return
        self.isolation.restore()
        if self.steps >= self.warmup and (self.steps - self.warmup) % self.interval == 0:
            self.isolation.refresh()
            self.refreshes += 1

    def statistics(self) -> dict[str, float]:
        """Steps and refreshes so far and, once there is a mask, its share, by module, and drift.

        ``taken_up`` joins them once other code has written to protected weights.
        """
        counts = {"steps": float(self.steps), "refreshes": float(self.refreshes)}
        if self.taken_up:
            counts["taken_up"] = float(self.taken_up)
        return counts | self.isolation.statistics()

    def state_bytes(self) -> int:
        """Bytes held beside model and optimizer."""
        return self.isolation.state_bytes()

    def state_dict(self) -> dict[str, Tensor]:
        """What is needed to go on exactly, as named tensors; the values are those in the model."""
        counts = {STEPS: torch.tensor(self.steps), REFRESHES: torch.tensor(self.refreshes)}
        checksums = {CHECKSUMS: weight_checksums(self.isolation)}
        return self.isolation.state_dict() | counts | checksums

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; the model must hold the weights that it was saved with.

        Raises:
            UserError: If the state is not that of a protection of the same parameters, or was
                saved beside other weights.
        """
        if STEPS not in state or REFRESHES not in state:
            raise UserError("the saved state is not one of a Protection: it counts no steps")
        self.isolation.check_state(state)
        check_weights(self.isolation, state, CHECKSUMS)
        self.isolation.load_state_dict(state)
        self._within_step = False
        if self._hooks is not None:
            self._hooks.forget_step()
        self.steps = int(state[STEPS])
        self.refreshes = int(state[REFRESHES])

    def go_on_from(self, earlier: Protection) -> None:
        """Take up importance, mask and counts of parameters that kept their name and shape.

        Args:
            earlier: Of the model as it was before it changed.
        """
        carry_over(earlier.isolation, self.isolation)
        self.steps, self.refreshes = earlier.steps, earlier.refreshes
        self.taken_up = earlier.taken_up

    def trains(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
        """Whether these train exactly the parameters that are protected here."""
        present = trained_parameters(optimizer, model)
        mine = self.isolation.parameters
        return list(present) == list(mine) and all(present[name] is mine[name] for name in mine)

    def _isolate(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the engine, for what the optimizer trains now."""
        trained = trained_parameters(optimizer, self._model)
        self.isolation = Isolation(trained.items(), **self._options)
        self.isolation.attach_optimizer(optimizer)
        if isinstance(self.isolation.importance, OptimizerMoment):
            moments = foreseen_moments(optimizer, self.isolation.parameters.values())
            refuse_moments_that_stand_still(optimizer, moments)
        self._optimizer = weakref.ref(optimizer)
        # The optimizer may train parameters of other models too; those stay as they are.
        self._known = {id(p) for p in stepped_parameters(optimizer)}

    def _prepare(self) -> None:
        """Before anything moves weights in a step: hold what was written, find what is new."""
        if self._within_step:
            self.isolation.restore()  # that step has raised, and may have moved weights
        else:
            self._warn_of_changes(self.take_up_changes())
        self._within_step = True
        optimizer = self._optimizer()
        if optimizer is not None and any(
            id(p) not in self._known for p in stepped_parameters(optimizer)
        ):
            earlier = self.isolation
            self._isolate(optimizer)
            carry_over(earlier, self.isolation)

    def _warn_of_changes(self, changed: int) -> None:
        if not changed or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"{changed:,} protected weights were written by other code than the optimizer's step "
            "(weights loaded back, an average copied in, a model cast) and are held at their new "
            "values from now on; further writes are counted in statistics() and not reported. If a "
            "wrapper around the optimizer writes in each step, protect the wrapper",
            stacklevel=2,
        )

    def _observe(self) -> None:
        if self.ratio > 0:
            self.isolation.observe()

    def _step_skipped(self) -> None:
        """``GradScaler`` found gradients that are not finite: the step counts for nothing."""
        self._within_step = False
        self.isolation.restore()
