"""Consolidated EPI: what mattered for finished experiences stays protected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from epi_bench import (
    ElasticAnchor,
    Experience,
    IsolationStrategy,
    Step,
    TradeOff,
    UserError,
    experience_fisher,
    normalise,
    reassign,
    register_strategy,
    state_part,
    unit_mean,
)


@register_strategy("epi_consolidated")
class EPIConsolidated(IsolationStrategy):
    """EPI whose importance is consolidated at each end of an experience.

    EPI's moving average forgets an experience within about ``1 / (1 - beta)`` steps. Here the
    average begins again with each experience, and what it says at the end is kept:

    1. end of experience k: ``P <- merge(P, N(I_k))``, one merged copy for all finished experiences;
       ``N`` normalises within each tensor, ``I_k`` is the diagonal Fisher information at the
       weights just reached, or the moving average of squared training gradients
    2. hard protection, if ``ratio`` > 0: the top ``ratio`` of P, or with ``current`` of
       ``max(P, N(I))`` measured again every ``interval`` steps with the present importance ``I``,
       is bit-identical between two refreshes; nothing is protected in the first experience
    3. graded protection, if ``penalty`` > 0: after each optimizer step every weight is drawn back
       to where the last experience left it,
       ``theta <- theta* + (theta - theta*) / (1 + lr penalty F)``, where ``F`` is the sum of the
       ``I_k``, **each divided by its own mean over the model**

    Step 3 is the exact proximal step of the quadratic ``penalty / 2 sum F (theta - theta*)^2``, so
    it is a relative of online EWC (Schwarz et al. 2018, arXiv 1805.06370) that differs in two ways:
    every finished experience counts alike, however small its loss was, and Adam does not rescale
    the penalty. **The defaults, chosen on the validation seeds, use step 3 alone** (``ratio`` 0):
    the hard mask added nothing there. ``ratio=0.5 penalty=0`` is the hard mask
    alone.

    Source of the mask: EPI (Lin et al. 2026, arXiv 2604.14010); the consolidation is this
    project's. It needs to know where experiences end; on a stream of one experience it protects
    nothing and equals full fine-tuning, unless ``protect_base`` is set.

    Args:
        ratio: Share of all trained weights that a hard mask protects, in [0, 1).
        source: Of the importance: ``fisher`` (a pass over ``fisher_samples`` examples at each end
            of an experience) or ``gradients`` (the moving average while training).
        merge: ``max`` or ``mean`` over the finished experiences.
        current: Whether the present experience's importance counts beside the past.
        interval: Optimizer steps of an experience between two refreshes, at least 1; without
            ``current`` the mask only moves between experiences.
        beta: Decay of the moving average, in [0, 1).
        normalisation: Within each tensor: ``min_max``, ``mean`` or ``rank``.
        penalty: Strength of the graded protection, at least 0.
        fisher_samples: Training examples of a Fisher pass, at least 1.
        control: For ablations: ``permuted`` gives each tensor's importances to weights drawn at
            random, ``inverted`` the largest to the least important weight. Mask and penalty keep
            their strength and lose their aim.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "12"
    trade_off = TradeOff("penalty", (10.0, 30.0, 100.0, 300.0, 1000.0))
    evidence = (
        "With ``epi_similarity`` it keeps most of what stores no examples on the embedded suite."
    )

    acts_from = 1
    later_options: ClassVar[Mapping[str, Any]] = {
        **IsolationStrategy.later_options,
        "protect_base": "none",
    }

    def __init__(
        self,
        ratio: float = 0.0,
        source: Literal["gradients", "fisher"] = "fisher",
        merge: Literal["max", "mean"] = "max",
        current: bool = False,
        interval: int = 20,
        beta: float = 0.99,
        normalisation: Literal["min_max", "mean", "rank"] = "mean",
        penalty: float = 100.0,
        fisher_samples: int = 64,
        control: Literal["none", "permuted", "inverted"] = "none",
        protect_base: str = "none",
    ) -> None:
        super().__init__(ratio, interval, 0, beta=beta, normalisation=normalisation)
        if penalty < 0:
            raise UserError(f"{self.name}: penalty={penalty} must be at least 0")
        if fisher_samples < 1:
            raise UserError(f"{self.name}: fisher_samples={fisher_samples} must be at least 1")
        self.source = source
        self.merge = merge
        self.current = current
        self.pull = penalty
        self.fisher_samples = fisher_samples
        self.protect_base = protect_base
        if protect_base != "none":
            self.acts_from = 0
        self.control = control
        self._finished = 0
        self._past: dict[str, Tensor] = {}

    def begin_training(self) -> None:
        """Measure the base model, if it is to be protected, as a task that has been finished."""
        if self.protect_base != "none":
            self._keep(self.context.base_experience(self.protect_base, self.fisher_samples))

    def refresh_due(self, step: Step) -> bool:
        """Every ``interval`` steps of each experience but the first, if the present counts."""
        return (
            self.current and self._finished > 0 and step.number_in_experience % self.interval == 0
        )

    def refresh(self) -> None:
        """Protect what is important for finished experiences or for the present one."""
        present = self.isolation.importance.values
        self.isolation.refresh_from(
            {
                name: torch.maximum(past, self._normalised(self._aimed(name, present[name])))
                for name, past in self._past.items()
            }
        )

    def gradients_ready(self, step: Step) -> None:
        """Take the step's gradients into the importance, if anything is read from it."""
        masked = self.ratio > 0 and (self.source == "gradients" or self.current)
        if masked or (self.pull > 0 and self.source == "gradients"):
            self.isolation.observe()

    def parameters_updated(self, step: Step) -> None:
        """Draw all weights back, then restore the protected ones and refresh if due."""
        if self._finished and self.pull > 0:
            self._elastic.draw(self.pull * step.optimizer.param_groups[0]["lr"])
        super().parameters_updated(step)

    def end_experience(self, experience: Experience) -> None:
        """Merge the finished experience's importance into the past and protect by it."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        if self.ratio == 0 and self.pull == 0:
            return
        importance = {k: self._aimed(k, v) for k, v in self._importance_of(experience).items()}
        self._finished += 1
        if self.ratio > 0:
            for name, scores in importance.items():
                self._past[name] = self._merged(
                    name, normalise(scores, self.isolation.normalisation)
                )
            self.isolation.refresh_from(self._past)
            self._refreshes += 1
        if self.pull > 0:
            before = self._elastic.stiffness
            new = unit_mean(importance)
            self._elastic.fix({k: v + before[k] if before else v for k, v in new.items()})
        self._begin_again()
        super().end_experience(experience)

    def stiffness(self) -> Mapping[str, Tensor]:
        """What was important for finished experiences."""
        return self._elastic.stiffness if self._finished and self.pull > 0 else {}

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's state, and what has been kept of finished experiences."""
        state = super().state_dict()
        if self._finished:
            state["finished"] = torch.tensor(self._finished)
            state |= {f"past.{name}": tensor for name, tensor in self._past.items()}
            state |= {f"elastic.{k}": v for k, v in self._elastic.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it."""
        super().load_state_dict(state)
        if "finished" not in state:
            return
        self._finished = int(state["finished"])
        parameters = self.isolation.parameters
        past = state_part(state, "past.")
        self._past = {k: v.to(parameters[k].device, copy=True) for k, v in past.items()}
        self._elastic.load_state_dict(state_part(state, "elastic."))

    def state_bytes(self) -> int:
        """Bytes of the engine and of what has been kept."""
        if not self._finished:
            return super().state_bytes()
        past = sum(tensor.numel() * tensor.element_size() for tensor in self._past.values())
        return super().state_bytes() + past + self._elastic.bytes()

    @cached_property
    def _elastic(self) -> ElasticAnchor:
        return ElasticAnchor(self.isolation.parameters, self.context.seed)

    def _importance_of(self, experience: Experience) -> Mapping[str, Tensor]:
        if self.source == "gradients" and experience.steps > 0:  # the base was not trained
            return self.isolation.importance.values
        return experience_fisher(
            self.context, self.isolation.parameters, experience, self.fisher_samples
        )

    def _normalised(self, scores: Tensor) -> Tensor:
        return normalise(scores, self.isolation.normalisation)

    def _aimed(self, name: str, scores: Tensor) -> Tensor:
        """The scores, or for a control the same values at other weights of the tensor."""
        generator = self.context.torch_generator(f"{name} after {self._finished}")
        return reassign(scores, self.control, generator)

    def _begin_again(self) -> None:
        """The next experience's moving average starts from zero."""
        average = self.isolation.importance
        average.load_state_dict({k: torch.zeros_like(v) for k, v in average.state_dict().items()})

    def _merged(self, name: str, new: Tensor) -> Tensor:
        past = self._past.get(name)
        if past is None:
            return new.clone()
        if self.merge == "max":
            return torch.maximum(past, new)
        return past + (new - past) / self._finished
