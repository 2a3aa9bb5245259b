"""Static mask: EPI measured once; the ablation of "evolving"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from epi_bench import (
    Experience,
    IsolationStrategy,
    Step,
    TradeOff,
    TrainingSpec,
    register_strategy,
)


@register_strategy("static_mask")
class StaticMask(IsolationStrategy):
    """The most important weights are measured once, and held still from then on.

    Steps 1 to 3 of ``epi`` once, then the same weights stay protected to the end.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1).
        measure: When the mask is taken, unless it is the base's: ``first_experience`` (at its end)
            or ``warmup`` (after so many steps).
        warmup: Optimizer steps before the mask is taken with ``measure=warmup``, at least 1.
        beta: Decay of the importance, in [0, 1).
        normalisation: Within each tensor: ``min_max``, ``mean`` or ``rank``.
        importance: How importance is kept, and its bytes a parameter: ``ema`` (4), ``ema_bf16``
            (2), ``factored`` (about 0), ``optimizer`` (0; reads AdamW's own second moment, so
            clipped gradients and a decay of beta2).
        offload: Keep the importance in the memory of the CPU instead of the GPU.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    needs = ("boundaries",)
    bytes_per_parameter = "8 + (1 + experiences) / 8"
    trade_off = TradeOff("ratio", (0.1, 0.3, 0.5, 0.7, 0.9))
    search_space = (
        {"normalisation": "rank", "ratio": 0.5},
        {"normalisation": "rank", "ratio": 0.7},
        {"normalisation": "rank", "ratio": 0.9},
        {"normalisation": "mean", "ratio": 0.5},
        {"normalisation": "mean", "ratio": 0.7},
        {"normalisation": "mean", "ratio": 0.5, "beta": 0.999},
    )
    evidence = "On the embedded suite it ends where ``epi`` does, or above."

    later_options: ClassVar[Mapping[str, Any]] = {
        **IsolationStrategy.later_options,
        "protect_base": "none",
    }

    def __init__(
        self,
        ratio: float = 0.5,
        measure: Literal["first_experience", "warmup"] = "first_experience",
        warmup: int = 20,
        beta: float = 0.99,
        normalisation: Literal["min_max", "mean", "rank"] = "mean",
        importance: Literal["ema", "ema_bf16", "factored", "optimizer"] = "ema",
        offload: bool = False,
        protect_base: str = "none",
    ) -> None:
        super().__init__(
            ratio,
            1,
            warmup,
            beta=beta,
            normalisation=normalisation,
            importance=importance,
            offload=offload,
        )
        self.measure = measure
        self.protect_base = protect_base
        waits = measure == "first_experience" and protect_base == "none"
        self.acts_from = 1 if waits else 0

    def begin_training(self) -> None:
        """Take the mask from the base model, if it is to be protected, and keep it."""
        self.protect_base_now()

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """As for every mask, if it is taken after a warm-up."""
        if self.measure == "warmup":
            return super().check_run(training, steps)
        self.check_importance(training)
        return ()

    def gradients_ready(self, step: Step) -> None:
        """Observe only until the mask is taken."""
        if not self._refreshes:
            super().gradients_ready(step)

    def refresh_due(self, step: Step) -> bool:
        """Once, after ``warmup`` steps, if that is when to measure."""
        return self.measure == "warmup" and not self._refreshes and step.number >= self.warmup

    def end_experience(self, experience: Experience) -> None:
        """Once, at the end of the first experience, if that is when to measure."""
        if self.measure == "first_experience" and not self._refreshes and self.ratio > 0:
            self.refresh()
            self._refreshes += 1
        super().end_experience(experience)
