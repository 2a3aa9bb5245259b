"""Acting around each step of an optimizer, once for a step, however it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from epi_bench.bridges.optimizer_steps import (
    FirstStepHook,
    bare,
    has_two_phases,
    observe_in_closure,
    unscale_gradients,
)
from epi_bench.errors import UserError


@dataclass(frozen=True, slots=True)
class StepActions:
    """What is done around a step.

    Attributes:
        prepare: Before anything moves weights.
        observe: Once the gradients are those that the optimizer will see.
        updated: After the step.
        skipped: After a step that ``GradScaler`` left out.
    """

    prepare: Callable[[], None]
    observe: Callable[[], None]
    updated: Callable[[], None]
    skipped: Callable[[], None]


class StepHooks:
    """Hooks on an optimizer that call some actions around each of its steps.

    Args:
        optimizer: As the training loop has it.
        hooked: Whose step hooks fire once for each update
            (:func:`epi_bench.bridges.optimizer_steps.with_step_hooks`).
        actions: What is done.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        hooked: torch.optim.Optimizer,
        actions: StepActions,
    ) -> None:
        self._actions = actions
        self._outermost: FrameType | None = None
        self._moved_aside = False
        self._skipped = False
        self._handles: list[torch.utils.hooks.RemovableHandle | FirstStepHook] = [
            hooked.register_step_pre_hook(self._before_step),
            hooked.register_step_post_hook(self._after_step),
        ]
        if has_two_phases(bare(optimizer)):
            self._handles.append(FirstStepHook(bare(optimizer), self._before_first_phase))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outermost = None

    def forget_step(self) -> None:
        """Begin with the next step as if none was under way."""
        self._moved_aside = False

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._outermost is not None and _is_running(self._outermost):
            return None  # a subclass's step() calls its parent's, and both have hooks
        if not self._moved_aside:
            self._actions.prepare()
        self._outermost = sys._getframe(1)
        self._skipped = not unscale_gradients(optimizer)
        if self._skipped:
            return None
        replaced = observe_in_closure(args, kwargs, self._actions.observe)
        if replaced is None:
            self._actions.observe()
        return replaced

    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if sys._getframe(1) is not self._outermost:
            return  # the outer step is not done yet and may still move weights
        self._outermost = None
        self._moved_aside = False
        if self._skipped:
            self._actions.skipped()
        else:
            self._actions.updated()

    def _before_first_phase(self) -> None:
        """Of an optimizer with two phases: what it writes up to the second is part of its step."""
        self._actions.prepare()
        self._moved_aside = True


class OnOptimizer:
    """Acts on an optimizer by its hooks until it is removed, or left as a context manager."""

    _hooks: StepHooks | None = None

    def remove(self) -> None:
        """Take the hooks off: the optimizer steps as it did before. What was measured is kept."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks = None

    @property
    def active(self) -> bool:
        """Whether it acts on an optimizer."""
        return self._hooks is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def refuse_second_hooks(hooked: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that has such hooks already.

    Raises:
        UserError: If another protection acts on it.
    """
    for hook in hooked._optimizer_step_post_hooks.values():
        if isinstance(getattr(hook, "__self__", None), StepHooks):
            raise UserError(
                "this optimizer is protected already: call remove() on what protect() returned"
            )


def _is_running(frame: FrameType) -> bool:
    """Whether a call is still on the stack; one that has raised is not, and has no post hook."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is frame
