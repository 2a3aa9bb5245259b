"""Graded protection with one number to set: what a nat of forgetting costs in nats of learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from epi_bench import (
    ElasticAnchor,
    ExampleMemory,
    Experience,
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    diagonal_fisher,
    mean_token_loss,
    register_strategy,
    scale_on_path,
    state_part,
    trained_parameters,
)

TRIES = 5
"""Points of a way at which a calibration measures the loss."""

TRIES_AGAIN = 3
"""The same where the scale is known from a calibration before."""


@register_strategy("forgetting_price")
class ForgettingPrice(Strategy):
    """A nat a token lost on a finished experience weighs ``price`` nats gained on the new one.

    At the end of experience k its diagonal Fisher information ``F_k`` is measured, and a scale
    ``c_k`` on the path that has just been travelled: the weights go back a part ``a`` of the way
    to where the experience began, so far that its loss has risen by about ``rise`` nats, and

        ``c_k = rise / (a^2 / 2 sum F_k (theta_start - theta)^2)``,

    so that ``D = 1/2 sum_k c_k F_k (theta - theta*)^2`` predicts nats lost. Later experiences are
    trained on ``loss + price D``, as the proximal step after each step of the optimizer

        ``theta <- theta* + (theta - theta*) / (1 + price lr k / m)``, ``k = sum_k c_k F_k``,

    where ``m`` is what the optimizer divides a gradient by (Adam: ``sqrt(v_hat) + eps``; momentum:
    ``1 - momentum``): gradient and pull are scaled alike, so the price means the same for each.

    The quadratic is that of EWC (Kirkpatrick et al. 2017, arXiv 1612.00796); calibration and price
    are this project's. Keeps 8 bytes a parameter.

    The base model (``protect_base``) has travelled no path. Its text stays, so its scale is
    measured on the way that training takes: after steps 2, 4, 8, 16, ... of each experience the
    way so far is gone on, or back, to where the loss on the text has risen by ``rise``: a diagonal
    says little about other directions, so a scale from another one would not hold here. This keeps
    4 bytes a parameter more, and ``diagnostics`` shows the rise that was predicted beside the one
    that was measured.

    Args:
        price: Nats gained that a lost nat is worth, at least 0; 0 is full fine-tuning.
        rise: Nats a token that a calibration lets the loss rise by, above 0.
        fisher_samples: Training examples of the Fisher pass and of the calibration, at least 1.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "8"
    trade_off = TradeOff("price", (0.5, 1.0, 2.5, 5.0, 10.0))

    acts_from = 1
    later_options: ClassVar[Mapping[str, Any]] = {"protect_base": "none"}
    changes_gradients = False

    def __init__(
        self,
        price: float = 2.5,
        rise: float = 0.05,
        fisher_samples: int = 64,
        protect_base: str = "none",
    ) -> None:
        if price < 0:
            raise UserError(f"forgetting_price: price={price} must be at least 0")
        if not rise > 0:
            raise UserError(f"forgetting_price: rise={rise} must be above 0")
        if fisher_samples < 1:
            raise UserError(f"forgetting_price: fisher_samples={fisher_samples} must be at least 1")
        self.price = price
        self.rise = rise
        self.fisher_samples = fisher_samples
        self.protect_base = protect_base
        if protect_base != "none":
            self.acts_from = 0
        self._start: dict[str, Tensor] = {}
        self._scale = 0.0
        self._base = BaseProtection(ExampleMemory(fisher_samples))

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """The optimizer's scaling must be known weight by weight."""
        if training.optimizer == "adafactor":
            raise UserError(
                "forgetting_price has to know what the optimizer divides each gradient by, and "
                "adafactor does not keep it: set optimizer to adamw or sgd",
                setting="training.optimizer",
            )
        return ()

    def begin_training(self) -> None:
        """Measure what the weights are worth to the base model, if it is to be protected."""
        if self.protect_base == "none" or self.price == 0:
            return
        base = self.context.base_experience(self.protect_base, self.fisher_samples)
        self._base.texts.offer(base.examples, self.context.generator("texts of the base model"))
        examples = self._base.texts.examples
        self._base.fisher = diagonal_fisher(self.context, self._elastic.parameters, examples)
        self._elastic.fix({name: torch.zeros_like(f) for name, f in self._base.fisher.items()})

    def begin_experience(self, experience: Experience) -> None:
        """Remember where the first path begins; later ones begin at the anchor."""
        if self._base.fisher:
            self._base.loss = mean_token_loss(self.context, self._base.texts.examples)
        if experience.index == 0 and self.price > 0 and not self._elastic.anchor:
            self._start = {n: p.detach().clone() for n, p in self._elastic.parameters.items()}

    def parameters_updated(self, step: Step) -> None:
        """Draw the weights back, each as its price says."""
        number = step.number_in_experience
        if self._base.fisher and number > 1 and number & (number - 1) == 0:
            self._calibrate_base()
        if self._elastic.stiffness:
            rate = self.price * step.optimizer.param_groups[0]["lr"]
            self._elastic.draw(rate, gradient_metric(self._elastic.parameters, step.optimizer))

    def end_experience(self, experience: Experience) -> None:
        """Measure what the weights are worth to it, in nats."""
        if self.price == 0:
            return
        generator = self.context.generator(f"forgetting price {experience.index}")
        count = min(self.fisher_samples, len(experience.examples))
        samples = generator.sample(list(experience.examples), count)
        parameters = self._elastic.parameters
        fisher = diagonal_fisher(self.context, parameters, samples)
        start = self._start or self._elastic.anchor
        end = {name: p.detach().clone() for name, p in parameters.items()}
        found = scale_on_path(
            self.context,
            parameters,
            end,
            {name: start[name].float() - end[name].float() for name in parameters},
            fisher,
            samples,
            rise=self.rise,
            loss_at_origin=mean_token_loss(self.context, samples),
            part=0.1,
            most=1.0,
            tries=TRIES,
        )
        # 1 is the theory's value, for a loss that does not rise at all on the way back
        self._scale = 1.0 if found.scale is None else found.scale
        before = self._elastic.stiffness
        self._elastic.fix(
            {name: self._scale * new + before.get(name, 0) for name, new in fisher.items()}
        )
        self._start = {}

    def stiffness(self) -> Mapping[str, Tensor]:
        """The curvature, in nats a token."""
        return self._elastic.stiffness if self.price > 0 else {}

    def diagnostics(self) -> dict[str, float]:
        """Nats that are predicted to be lost, the last scale, and how right the base's was."""
        known = {"predicted_loss": self._elastic.energy(), "fisher_scale": self._scale}
        base = {
            "base_scale": self._base.scale,
            "base_rise_predicted": self._base.predicted,
            "base_rise_measured": self._base.measured,
        }
        return (known if self._scale or self._base.scale else {}) | (
            base if self._base.scale else {}
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Anchor, stiffness, the beginning of the first path, the last scale, the base model's."""
        state = {f"elastic.{k}": v for k, v in self._elastic.state_dict().items()}
        state |= {f"start.{name}": tensor for name, tensor in self._start.items()}
        state |= {f"base.{name}": tensor for name, tensor in self._base.state_dict().items()}
        return state | {"scale": torch.tensor(self._scale, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it."""
        self._elastic.load_state_dict(state_part(state, "elastic."))
        self._start = {name: t.clone() for name, t in state_part(state, "start.").items()}
        self._base.load_state_dict(state_part(state, "base."), self.context.device)
        self._scale = float(state["scale"])

    @cached_property
    def _elastic(self) -> ElasticAnchor:
        return ElasticAnchor(trained_parameters(self.context.model), self.context.seed)

    @torch.no_grad()
    def _calibrate_base(self) -> None:
        """Measure the base model's scale on the way that this experience has taken so far."""
        base, elastic = self._base, self._elastic
        anchor = elastic.anchor
        way = {name: p.float() - anchor[name].float() for name, p in elastic.parameters.items()}
        base.measured = mean_token_loss(self.context, base.texts.examples) - base.loss
        base.predicted = base.scale * sum(
            float((base.fisher[name] * way[name].square()).double().sum()) / 2 for name in way
        )
        found = scale_on_path(
            self.context,
            elastic.parameters,
            anchor,
            way,
            base.fisher,
            base.texts.examples,
            rise=self.rise,
            loss_at_origin=base.loss,
            part=base.part,
            most=math.inf,
            tries=TRIES_AGAIN if base.scale else TRIES,
        )
        if found.scale is not None:
            more = found.scale - base.scale
            for name, fisher in base.fisher.items():
                elastic.stiffness[name] = (elastic.stiffness[name] + more * fisher).clamp_(min=0)
            base.scale, base.part = found.scale, found.part


class BaseProtection:
    """What is known of the base model, where it is protected.

    Args:
        texts: Gets what says what it can do.

    Attributes:
        texts: As given.
        fisher: Of each weight; empty where the base model is not protected.
        loss: On the texts where the experience began, in nats a token.
        scale: What ``fisher`` is multiplied with; 0 until it has been measured.
        part: Of the way, where it was measured last.
        predicted: How much the last calibration had thought the loss to have risen by.
        measured: How much it had.
    """

    def __init__(self, texts: ExampleMemory) -> None:
        self.texts = texts
        self.fisher: dict[str, Tensor] = {}
        self.loss = 0.0
        self.scale = 0.0
        self.part = 1.0
        self.predicted = 0.0
        self.measured = 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """All of it; empty where the base model is not protected."""
        if not self.fisher:
            return {}
        numbers = [self.loss, self.scale, self.part, self.predicted, self.measured]
        state = {f"fisher.{name}": tensor for name, tensor in self.fisher.items()}
        state |= {f"texts.{name}": tensor for name, tensor in self.texts.state_dict().items()}
        return state | {"numbers": torch.tensor(numbers, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take it up.

        Args:
            state: As :meth:`state_dict` gave it.
            device: Of the model.
        """
        if not state:
            return
        self.fisher = {n: t.to(device, copy=True) for n, t in state_part(state, "fisher.").items()}
        self.texts.load_state_dict(state_part(state, "texts."))
        numbers = state["numbers"].tolist()
        self.loss, self.scale, self.part, self.predicted, self.measured = numbers


def gradient_metric(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """What an optimizer divides each weight's gradient by, apart from the learning rate.

    Args:
        parameters: By name; those that it has not stepped yet are left out.
        optimizer: Adam, AdamW, or SGD with or without momentum.
    """
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    metric = {}
    for name, parameter in parameters.items():
        group, state = groups.get(parameter, {}), optimizer.state.get(parameter, {})
        if "exp_avg_sq" in state:
            correction = 1 - group["betas"][1] ** float(state["step"])
            metric[name] = (state["exp_avg_sq"].float() / correction).sqrt() + group["eps"]
        elif group.get("momentum"):
            metric[name] = torch.tensor(1 - group["momentum"], device=parameter.device)
    return metric
