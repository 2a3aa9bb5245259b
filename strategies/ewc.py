"""Elastic weight consolidation: weights that mattered for earlier tasks resist change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    FisherInformation,
    Step,
    Strategy,
    TradeOff,
    UserError,
    fisher_samples,
    register_strategy,
    state_part,
    trained_parameters,
)

if TYPE_CHECKING:
    from epi_bench import TrainingSpec


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

    Where memory is scarce: ``fisher=factored`` keeps next to nothing beside the anchor, and with
    ``offload`` EWC trains where full fine-tuning does: it takes no more of a GPU's memory.

    Args:
        strength: Weight of the penalty, at least 0 (lambda in the paper).
        mode: ``online`` or ``separate``.
        decay: Forgetting of old Fisher information in ``online`` mode, in [0, 1] (gamma).
        fisher_samples: Training examples of the experience that the Fisher is estimated on, at
            least 1.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
        fisher: ``diagonal``: 4 bytes a parameter; ``diagonal_bf16``: 2 bytes; ``factored``: of each
            matrix the means of rows and columns, which keeps their sums and takes next to nothing;
            ``optimizer``: 4 bytes, Adam's second moment at the end of the experience instead of a
            Fisher pass. That is another quantity: the average of the squared gradients of batches,
            along the way and after clipping.
        normalise: ``mean`` divides each experience's Fisher by its mean over all weights, so that
            an experience that ends with a high loss does not outweigh the others; ``strength`` then
            means something else. ``none`` leaves it.
        offload: Keep Fisher and anchor in host memory, and add the penalty's gradient tensor by
            tensor once the loss's is complete. The same training but for rounding; a step takes
            longer.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = (
        "4 + {'diagonal': 4, 'diagonal_bf16': 2, 'factored': 8 / width, 'optimizer': 4}[fisher]"
    )
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
    later_options: ClassVar[Mapping[str, Any]] = {
        "protect_base": "none",
        "fisher": "diagonal",
        "normalise": "none",
        "offload": False,
    }

    def __init__(
        self,
        strength: float = 1e4,
        mode: Literal["online", "separate"] = "online",
        decay: float = 1.0,
        fisher_samples: int = 64,
        protect_base: str = "none",
        fisher: Literal["diagonal", "diagonal_bf16", "factored", "optimizer"] = "diagonal",
        normalise: Literal["none", "mean"] = "none",
        offload: bool = False,
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
        self.fisher = fisher
        self.normalise = normalise
        self.offload = offload
        if protect_base != "none":
            self.acts_from = 0
        self._terms: list[tuple[FisherInformation, dict[str, Tensor]]] = []

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether anything is held, and there is a second moment to read if that is asked for."""
        idle = [] if self.strength else ["ewc with strength=0 trains as full_sft does"]
        if self.fisher != "optimizer":
            return idle
        if training.optimizer != "adamw":
            raise UserError(
                f"ewc: fisher=optimizer reads Adam's second moment, which {training.optimizer} "
                "does not keep: set optimizer to adamw, or fisher to diagonal or factored",
                setting="training.optimizer",
            )
        if self.protect_base != "none":
            raise UserError(
                "ewc: fisher=optimizer has nothing to read before the first step, so the base "
                "cannot be protected: choose another fisher or protect_base=none"
            )
        return idle

    def begin_training(self) -> None:
        """Measure the base model, if it is to be protected, as a task that has been finished."""
        if self.protect_base != "none":
            self._keep(self.context.base_experience(self.protect_base, self.fisher_samples))

    def end_experience(self, experience: Experience) -> None:
        """Measure the Fisher information at the weights just reached, and anchor them."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        before = None
        if self.mode == "online" and self._terms:
            before = self._terms.pop()[0]  # the anchor is let go: its memory is needed now
        fisher = self._measured(experience)
        parameters = trained_parameters(self.context.model)
        if self.normalise == "mean":
            fisher = fisher.with_unit_mean({name: p.shape for name, p in parameters.items()})
        if before is not None:
            fisher = before.decayed_and(self.decay, fisher)
        anchor = {
            name: parameters[name].detach().to(self._place, copy=True) for name in fisher.parts
        }
        self._terms.append((fisher, anchor))

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The weighted quadratic penalty, or ``None`` before the first experience has ended."""
        if not self._terms or self.strength == 0 or self.offload:
            return None
        parameters = dict(model.named_parameters())
        distances = [
            fisher.pull(name, parameters[name], anchor[name])
            for fisher, anchor in self._terms
            for name in fisher.parts
        ]
        return self.strength / 2 * torch.stack(distances).sum()

    def stiffness(self) -> Mapping[str, Tensor]:
        """The Fisher information of all terms."""
        total: dict[str, Tensor] = {}
        for fisher, anchor in self._terms if self.strength > 0 else ():
            for name in fisher.parts:
                values = fisher.values(name, anchor[name].shape)
                total[name] = total[name] + values if name in total else values
        return total

    def gradients_ready(self, step: Step) -> None:
        """Add the penalty's gradient to the loss's, where it is not part of the loss.

        In the backward pass of a loss with a penalty, the penalty's gradients come first and wait
        for the loss's: another 4 bytes a parameter when the activations are there, too.
        """
        if not self.offload or self.strength == 0:
            return
        parameters = dict(step.model.named_parameters())
        for fisher, anchor in self._terms:
            for name in fisher.parts:
                parameter = parameters[name]
                term = self.strength / 2 * fisher.pull(name, parameter, anchor[name])
                (pull,) = torch.autograd.grad(term, parameter)
                if parameter.grad is None:
                    parameter.grad = pull
                else:
                    parameter.grad.add_(pull)

    def state_dict(self) -> dict[str, Tensor]:
        """Fisher information and anchors of every term."""
        state: dict[str, Tensor] = {}
        for position, (fisher, anchor) in enumerate(self._terms):
            state |= {f"{position}.{key}": tensor for key, tensor in fisher.state_dict().items()}
            state |= {f"{position}.anchor.{name}": tensor for name, tensor in anchor.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all terms."""
        self._terms = []
        while term := state_part(state, f"{len(self._terms)}."):
            anchor = state_part(term, "anchor.")
            kept = {key: t for key, t in term.items() if not key.startswith("anchor.")}
            self._terms.append(
                (
                    FisherInformation.from_state(kept, self._place),
                    {name: tensor.to(self._place, copy=True) for name, tensor in anchor.items()},
                )
            )

    @property
    def _place(self) -> torch.device:
        """Where Fisher and anchor are kept."""
        return torch.device("cpu") if self.offload else self.context.device

    def _measured(self, experience: Experience) -> FisherInformation:
        parameters = trained_parameters(self.context.model)
        if self.fisher == "optimizer":
            return FisherInformation.of_optimizer(self.context.optimizer, parameters, self._place)
        drawn = fisher_samples(self.context, experience, self.fisher_samples)
        return FisherInformation.measured(
            self.context, parameters, drawn, self.fisher, device=self._place
        )
