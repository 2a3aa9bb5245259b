"""Synaptic intelligence: importance from the path that the training took."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    Step,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    state_part,
    trained_parameters,
    weighted_distance,
)

PARTS = ("path", "importance", "anchor")
"""What is kept of each weight."""


@register_strategy("si")
class SynapticIntelligence(Strategy):
    """Penalty weighted by how much each weight did to lower the loss (arXiv 1703.04200).

    While an experience is trained, ``path <- path - g (theta_after - theta_before)`` at each step,
    with the gradient ``g`` of the task's loss alone, before clipping. At its end, with ``d`` the
    whole way that the weight went in it,

        ``importance <- importance + max(path, 0) / (d^2 + damping * mean(d^2))``

    and the anchor is set; afterwards ``loss + strength sum importance (theta - anchor)^2``.

    Two departures from Zenke et al. 2017: their damping is the constant 0.1, which swamps the
    ``d^2`` of a pretrained model (about 1e-6), so it is relative here; and a negative path, which
    would push weights away from their anchor, counts as none. Keeps 12 bytes a parameter, and 8
    more during a step.

    Args:
        strength: Weight of the penalty, at least 0 (c in the paper).
        damping: In units of the mean of ``d^2`` over all weights, above 0.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "12"
    trade_off = TradeOff("strength", (0.001, 0.01, 0.1, 1.0, 10.0))

    acts_from = 1

    def __init__(self, strength: float = 0.1, damping: float = 1.0) -> None:
        if strength < 0:
            raise UserError(f"si: strength={strength} must be at least 0")
        if not damping > 0:
            raise UserError(f"si: damping={damping} must be above 0")
        self.strength = strength
        self.damping = damping
        self._path: dict[str, Tensor] = {}
        self._importance: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._step: dict[str, tuple[Tensor, Tensor]] = {}

    def begin_experience(self, experience: Experience) -> None:
        """Begin the path where the weights are."""
        trained = trained_parameters(self.context.model)
        self._anchor = {name: p.detach().float().clone() for name, p in trained.items()}
        self._path = {name: torch.zeros_like(t) for name, t in self._anchor.items()}

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The weighted quadratic penalty, or ``None`` before the first experience has ended."""
        if not self._importance or self.strength == 0:
            return None
        return self.strength * weighted_distance(model, self._anchor, self._importance)

    @torch.no_grad()
    def gradients_ready(self, step: Step) -> None:
        """Remember weights and the gradient of the task's loss, the penalty's part taken out."""
        parameters = dict(step.model.named_parameters())
        for name in self._path:
            parameter = parameters[name]
            if parameter.grad is None:
                continue
            weight, gradient = parameter.detach().float().clone(), parameter.grad.float().clone()
            if name in self._importance and self.strength > 0:
                pull = self._importance[name] * (weight - self._anchor[name])
                gradient -= 2 * self.strength * pull
            self._step[name] = (weight, gradient)

    @torch.no_grad()
    def parameters_updated(self, step: Step) -> None:
        """Add what the step contributed."""
        parameters = dict(step.model.named_parameters())
        for name, (weight, gradient) in self._step.items():
            self._path[name] -= gradient * (parameters[name].float() - weight)
        self._step = {}

    @torch.no_grad()
    def end_experience(self, experience: Experience) -> None:
        """Turn the path into importance, and anchor the weights."""
        parameters = dict(self.context.model.named_parameters())
        ways = {n: (parameters[n].float() - t).square() for n, t in self._anchor.items()}
        count = sum(way.numel() for way in ways.values())
        damping = self.damping * sum(float(way.double().sum()) for way in ways.values()) / count
        for name, way in ways.items():
            gained = self._path[name].clamp(min=0)
            new = torch.where(gained > 0, gained / (way + damping), 0.0)
            self._importance[name] = self._importance.get(name, 0) + new
            self._anchor[name] = parameters[name].detach().float().clone()

    def stiffness(self) -> Mapping[str, Tensor]:
        """The importance of each weight."""
        return self._importance if self.strength > 0 else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Path, importance and anchor of each weight."""
        kept = zip(PARTS, (self._path, self._importance, self._anchor), strict=True)
        return {f"{part}.{name}": t for part, tensors in kept for name, t in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all three."""
        self._path, self._importance, self._anchor = (
            {name: t.clone() for name, t in state_part(state, f"{part}.").items()} for part in PARTS
        )
