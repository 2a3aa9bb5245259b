"""Elastic weight consolidation: weights that mattered for earlier tasks resist change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    Strategy,
    TradeOff,
    UserError,
    experience_fisher,
    register_strategy,
)


@register_strategy("ewc")
class EWC(Strategy):
    """Penalty weighted by the Fisher information of finished experiences.

    ``loss + strength / 2 * sum_k sum_i F_k,i (theta_i - theta*_k,i)^2`` (Kirkpatrick et al. 2017,
    arXiv 1612.00796, eq. 3). ``F_k`` is the diagonal of the empirical Fisher information at the
    weights ``theta*_k`` that experience k ended with: the mean over samples of the squared
    gradient of one sample's mean token loss, in evaluation mode, one sample at a time.

    ``online`` keeps one Fisher and one anchor: ``F <- decay * F + F_new``, anchored at the last
    weights (Schwarz et al. 2018, arXiv 1805.06370). ``separate`` keeps one of each for every
    finished experience.

    Args:
        strength: Weight of the penalty, at least 0 (lambda in the paper).
        mode: ``online`` or ``separate``.
        decay: Forgetting of old Fisher information in ``online`` mode, in [0, 1] (gamma).
        fisher_samples: Training examples of the experience that the Fisher is estimated on, at
            least 1.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "8"
    trade_off = TradeOff("strength", (1e2, 1e3, 1e4, 1e5, 1e6))
    search_space = (
        {"strength": 1e3},
        {"strength": 1e4},
        {"strength": 1e5},
    )
    evidence = (
        "On the embedded suite it keeps more than every hard mask; its strength has to be "
        "searched for each model."
    )

    acts_from = 1
    later_options: ClassVar[Mapping[str, Any]] = {"protect_base": "none"}

    def __init__(
        self,
        strength: float = 1e4,
        mode: Literal["online", "separate"] = "online",
        decay: float = 1.0,
        fisher_samples: int = 64,
        protect_base: str = "none",
    ) -> None:
        if strength < 0:
            raise UserError(f"ewc: strength={strength} must be at least 0")
        if not 0 <= decay <= 1:
            raise UserError(f"ewc: decay={decay} must lie in [0, 1]")
        if fisher_samples < 1:
            raise UserError(f"ewc: fisher_samples={fisher_samples} must be at least 1")
        self.strength = strength
        self.mode = mode
        self.decay = decay
        self.fisher_samples = fisher_samples
        self.protect_base = protect_base
        if protect_base != "none":
            self.acts_from = 0
        self._terms: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def begin_training(self) -> None:
        """Measure the base model, if it is to be protected, as a task that has been finished."""
        if self.protect_base != "none":
            self._keep(self.context.base_experience(self.protect_base, self.fisher_samples))

    def end_experience(self, experience: Experience) -> None:
        """Measure the Fisher information at the weights just reached, and anchor them."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        model = self.context.model
        fisher = self._fisher(experience)
        anchor = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if name in fisher
        }
        if self.mode == "online" and self._terms:
            previous, _ = self._terms.pop()
            fisher = {name: self.decay * previous[name] + new for name, new in fisher.items()}
        self._terms.append((fisher, anchor))

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The weighted quadratic penalty, or ``None`` before the first experience has ended."""
        if not self._terms or self.strength == 0:
            return None
        parameters = dict(model.named_parameters())
        distances = [
            (importance * (parameters[name] - anchor[name]).square()).sum()
            for fisher, anchor in self._terms
            for name, importance in fisher.items()
        ]
        return self.strength / 2 * torch.stack(distances).sum()

    def stiffness(self) -> Mapping[str, Tensor]:
        """The Fisher information of all terms."""
        total: dict[str, Tensor] = {}
        for fisher, _ in self._terms if self.strength > 0 else ():
            total = {name: new + total[name] if total else new for name, new in fisher.items()}
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Fisher information and anchors of every term."""
        return {
            f"{position}.{kind}.{name}": tensor
            for position, (fisher, anchor) in enumerate(self._terms)
            for kind, tensors in (("fisher", fisher), ("anchor", anchor))
            for name, tensor in tensors.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all terms."""
        terms: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        for key, tensor in state.items():
            position, kind, name = key.split(".", 2)
            term = terms.setdefault(int(position), ({}, {}))
            own = tensor.to(self.context.device, copy=True)
            term[0 if kind == "fisher" else 1][name] = own
        self._terms = [terms[position] for position in sorted(terms)]

    def _fisher(self, experience: Experience) -> dict[str, Tensor]:
        trained = {n: p for n, p in self.context.model.named_parameters() if p.requires_grad}
        return experience_fisher(self.context, trained, experience, self.fisher_samples)
