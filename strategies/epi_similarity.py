"""Similarity-weighted EPI: like tasks share weights, unlike ones are kept apart."""

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
    reassign,
    register_strategy,
    state_part,
    unit_mean,
)


@register_strategy("epi_similarity")
class EPISimilarity(IsolationStrategy):
    """Past experiences are protected the more, the less the new one resembles them.

    At the end of experience k its diagonal Fisher information ``F_k`` is kept, in units of its mean
    over the model. At the beginning of a new experience its own ``F_new`` is measured with the
    weights as they are, and each past experience gets the weight

        ``w_k = (1 - similarity_k) ^ sharpness``,
        ``similarity_k = cos(sqrt(F_k), sqrt(F_new))``

    (the root keeps a few large values from deciding alone). Until the experience ends,

    1. the top ``ratio`` of ``sum_k w_k F_k``, normalised within each tensor as in EPI, is protected
       and bit-identical;
    2. with ``penalty`` > 0 the other weights are drawn back to where the experience began,
       ``theta <- theta* + (theta - theta*) / (1 + lr penalty sum_k w_k F_k)``.

    The defaults use the second alone (graded protection, no hard mask).

    Measured on training examples of the new experience only; none are stored. Keeps 4 bytes a
    parameter for each finished experience. Source of the mask: EPI (Lin et al. 2026, arXiv
    2604.14010), whose authors name task similarity as future work; the rule is this project's.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1).
        sharpness: How much similarity counts, at least 0; with 0 all weights ``w_k`` are 1.
        normalisation: Within each tensor: ``min_max``, ``mean`` or ``rank``.
        penalty: Strength of the pull on unprotected weights, at least 0.
        fisher_samples: Training examples of a Fisher pass, at least 1.
        control: For ablations: ``permuted`` gives each tensor's weighted importances to weights
            drawn at random, ``inverted`` the largest to the least important weight. Mask and
            penalty keep their strength and lose their aim.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "12 + 4 * experiences"
    trade_off = TradeOff("penalty", (10.0, 30.0, 100.0, 300.0, 1000.0))
    evidence = (
        "With ``epi_consolidated`` it keeps most of what stores no examples on the embedded suite."
    )

    later_options: ClassVar[Mapping[str, Any]] = {"control": "none", "protect_base": "none"}

    acts_from = 1

    def __init__(
        self,
        ratio: float = 0.0,
        sharpness: float = 1.0,
        normalisation: Literal["min_max", "mean", "rank"] = "mean",
        penalty: float = 100.0,
        fisher_samples: int = 64,
        control: Literal["none", "permuted", "inverted"] = "none",
        protect_base: str = "none",
    ) -> None:
        super().__init__(ratio, 1, 0, normalisation=normalisation)
        for option, value, least in (
            ("sharpness", sharpness, 0),
            ("penalty", penalty, 0),
            ("fisher_samples", fisher_samples, 1),
        ):
            if value < least:
                raise UserError(f"{self.name}: {option}={value} must be at least {least}")
        self.sharpness = sharpness
        self.pull = penalty
        self.fisher_samples = fisher_samples
        self.protect_base = protect_base
        if protect_base != "none":
            self.acts_from = 0
        self.control = control
        self._past: list[dict[str, Tensor]] = []
        self._similarities: list[float] = []

    def begin_training(self) -> None:
        """Measure the base model, if it is to be protected, as a task that has been finished."""
        if self.protect_base != "none":
            self._keep(self.context.base_experience(self.protect_base, self.fisher_samples))

    def begin_experience(self, experience: Experience) -> None:
        """Compare the new experience with the past ones and protect accordingly."""
        if not self._past or (self.ratio == 0 and self.pull == 0):
            return
        new = self._fisher(experience, "begin")
        self._similarities = [similarity(past, new) for past in self._past]
        weights = [max(1 - s, 0.0) ** self.sharpness for s in self._similarities]
        combined = {
            name: self._aimed(
                f"{name} before {experience.index}",
                sum(w * past[name] for w, past in zip(weights, self._past, strict=True)),
            )
            for name in new
        }
        if self.ratio > 0:
            self.isolation.refresh_from(combined)
            self._refreshes += 1
        if self.pull > 0:
            self._elastic.fix(combined)

    def gradients_ready(self, step: Step) -> None:
        """Nothing: importance is measured between the experiences."""

    def refresh_due(self, step: Step) -> bool:
        """Never within an experience."""
        return False

    def parameters_updated(self, step: Step) -> None:
        """Draw all weights back, then restore the protected ones."""
        if self.pull > 0:
            self._elastic.draw(self.pull * step.optimizer.param_groups[0]["lr"])
        super().parameters_updated(step)

    def end_experience(self, experience: Experience) -> None:
        """Keep what was important for it."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        if self.ratio > 0 or self.pull > 0:
            self._past.append(self._fisher(experience, "end"))
        super().end_experience(experience)

    def stiffness(self) -> Mapping[str, Tensor]:
        """What was important for past experiences, as they are weighed now."""
        return self._elastic.stiffness if self._past and self.pull > 0 else {}

    def diagnostics(self) -> dict[str, float]:
        """The mask's statistics and the similarity with each past experience."""
        return super().diagnostics() | {
            f"similarity_{index}": value for index, value in enumerate(self._similarities)
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's state, the importance of every past experience and the similarities."""
        state = super().state_dict()
        if self._past:
            state["similarities"] = torch.tensor(self._similarities, dtype=torch.float64)
            state |= {f"elastic.{k}": v for k, v in self._elastic.state_dict().items()}
        for index, past in enumerate(self._past):
            state |= {f"past.{index}.{name}": tensor for name, tensor in past.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it."""
        super().load_state_dict(state)
        self._past = []
        while past := state_part(state, f"past.{len(self._past)}."):
            parameters = self.isolation.parameters
            self._past.append({k: v.to(parameters[k].device, copy=True) for k, v in past.items()})
        if self._past:
            self._similarities = state["similarities"].tolist()
            self._elastic.load_state_dict(state_part(state, "elastic."))

    def state_bytes(self) -> int:
        """Bytes of the engine and of what has been kept."""
        past = sum(t.numel() * t.element_size() for p in self._past for t in p.values())
        elastic = self._elastic.bytes() if self._past else 0
        return super().state_bytes() + past + elastic

    @cached_property
    def _elastic(self) -> ElasticAnchor:
        return ElasticAnchor(self.isolation.parameters, self.context.seed)

    def _aimed(self, purpose: str, scores: Tensor) -> Tensor:
        """The scores, or for a control the same values at other weights of the tensor."""
        return reassign(scores, self.control, self.context.torch_generator(purpose))

    def _fisher(self, experience: Experience, moment: str) -> dict[str, Tensor]:
        purpose = f"fisher samples, {moment} of {experience.index}"
        return unit_mean(
            experience_fisher(
                self.context,
                self.isolation.parameters,
                experience,
                self.fisher_samples,
                purpose,
            )
        )


def similarity(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Cosine of the roots of two importances, in [0, 1]; 0 if one of them is all zero."""
    dot = sum(float((a.double() * second[name]).sqrt().sum()) for name, a in first.items())
    norms = [sum(float(t.double().sum()) for t in each.values()) for each in (first, second)]
    return dot / (norms[0] * norms[1]) ** 0.5 if min(norms) > 0 else 0.0
