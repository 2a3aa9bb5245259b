"""Graded protection with one number to set: what a nat of forgetting costs in nats of learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from epi_bench import (
    ElasticAnchor,
    EncodedExample,
    Experience,
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    diagonal_fisher,
    register_strategy,
    state_part,
    trained_parameters,
)

TRIES = 5
"""Points of the path at which a calibration measures the loss."""

BATCH = 16
"""Examples of a forward pass of a calibration."""


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

    The base model (``protect_base``) has travelled no path: its scale is measured on the way to
    weights that are all moved by the same amount, up or down at random, which is about what the
    first steps of an adaptive optimizer do.

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
        if self.protect_base != "none" and self.price > 0:
            self._start = self._moved_at_random()
            self._keep(self.context.base_experience(self.protect_base, self.fisher_samples))

    def begin_experience(self, experience: Experience) -> None:
        """Remember where the first path begins; later ones begin at the anchor."""
        if experience.index == 0 and self.price > 0 and not self._elastic.anchor:
            self._start = {n: p.detach().clone() for n, p in self._elastic.parameters.items()}

    def parameters_updated(self, step: Step) -> None:
        """Draw the weights back, each as its price says."""
        if self._elastic.stiffness:
            rate = self.price * step.optimizer.param_groups[0]["lr"]
            self._elastic.draw(rate, gradient_metric(self._elastic.parameters, step.optimizer))

    def end_experience(self, experience: Experience) -> None:
        """Measure what the weights are worth to it, in nats."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        if self.price == 0:
            return
        generator = self.context.generator(f"forgetting price {experience.index}")
        count = min(self.fisher_samples, len(experience.examples))
        samples = generator.sample(list(experience.examples), count)
        parameters = self._elastic.parameters
        fisher = diagonal_fisher(self.context, parameters, samples)
        start = self._start or self._elastic.anchor
        self._scale = self._calibrate(samples, start, fisher)
        before = self._elastic.stiffness
        self._elastic.fix(
            {name: self._scale * new + before.get(name, 0) for name, new in fisher.items()}
        )
        self._start = {}

    def stiffness(self) -> Mapping[str, Tensor]:
        """The curvature, in nats a token."""
        return self._elastic.stiffness if self.price > 0 else {}

    def diagnostics(self) -> dict[str, float]:
        """Nats a token that finished experiences are predicted to have lost, and the last scale."""
        if not self._scale:
            return {}
        return {"predicted_loss": self._elastic.energy(), "fisher_scale": self._scale}

    def state_dict(self) -> dict[str, Tensor]:
        """Anchor, stiffness, the beginning of the first path, the last scale."""
        state = {f"elastic.{k}": v for k, v in self._elastic.state_dict().items()}
        state |= {f"start.{name}": tensor for name, tensor in self._start.items()}
        return state | {"scale": torch.tensor(self._scale, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it."""
        self._elastic.load_state_dict(state_part(state, "elastic."))
        self._start = {name: t.clone() for name, t in state_part(state, "start.").items()}
        self._scale = float(state["scale"])

    @cached_property
    def _elastic(self) -> ElasticAnchor:
        return ElasticAnchor(trained_parameters(self.context.model), self.context.seed)

    @torch.no_grad()
    def _moved_at_random(self) -> dict[str, Tensor]:
        """All weights, each moved by the root mean square of the model's weights."""
        parameters = self._elastic.parameters
        squares = sum(float(p.float().square().double().sum()) for p in parameters.values())
        amount = (squares / sum(p.numel() for p in parameters.values())) ** 0.5
        generator = self.context.torch_generator("directions from the base model")
        found = {}
        for name, parameter in parameters.items():
            up = torch.rand(parameter.shape, generator=generator) < 0.5
            way = torch.where(up, amount, -amount).to(parameter.device)
            found[name] = parameter.float() + way
        return found

    @torch.no_grad()
    def _calibrate(
        self,
        samples: Sequence[EncodedExample],
        start: Mapping[str, Tensor],
        fisher: Mapping[str, Tensor],
    ) -> float:
        """The scale that makes the quadratic right for a rise of about ``rise``.

        1, which is the theory's value, where the loss does not rise on the way back at all.
        """
        parameters = self._elastic.parameters
        end = {name: p.detach().clone() for name, p in parameters.items()}
        way = {name: start[name].float() - end[name].float() for name in parameters}
        curvature = sum(float((fisher[n] * way[n].square()).double().sum()) for n in way) / 2
        if not curvature > 0:
            return 1.0
        lowest, part, best = self._loss(samples), 0.1, (float("inf"), 1.0)
        for _ in range(TRIES):
            for name, parameter in parameters.items():
                parameter.copy_(end[name].float() + part * way[name])
            rise = self._loss(samples) - lowest
            if rise > 0:
                miss = abs(torch.tensor(rise / self.rise).log().item())
                best = min(best, (miss, rise / (part**2 * curvature)))
            # the loss rises with about the square of the part
            factor = (self.rise / rise) ** 0.5 if rise > 0 else 3.0
            part = min(1.0, part * min(max(factor, 1 / 3), 3.0))
        for name, parameter in parameters.items():
            parameter.copy_(end[name])
        return best[1]

    def _loss(self, samples: Sequence[EncodedExample]) -> float:
        """Mean over the samples' supervised tokens, in nats."""
        model, total, tokens = self.context.model, 0.0, 0
        was_training = model.training
        model.eval()
        for batch in self.context.batches(samples, BATCH):
            count = int((batch["labels"][:, 1:] != -100).sum())
            total += float(self.context.loss(model, batch)) * count
            tokens += count
        model.train(was_training)
        return total / tokens


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
