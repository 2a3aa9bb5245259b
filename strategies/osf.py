"""OSF: train beside the largest singular directions of each matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    PartialStep,
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    block_matrices,
    register_strategy,
    state_part,
    trained_parameters,
)


@register_strategy("osf")
class OrthogonalSubspace(Strategy):
    """The largest singular directions of each matrix are kept, the others are trained.

    Orthogonal subspace fine-tuning (Nayak et al. 2025, arXiv 2504.07097), on the update.

    When an experience begins, ``W = U S V^T`` of each matrix of the blocks, with ``U_h`` and
    ``V_h`` the ``share`` of its directions that have the largest singular values. Until it ends,
    gradients and what the optimizer did are projected:

        ``step <- (I - U_h U_h^T) step (I - V_h V_h^T)``

    so that ``W V_h`` and ``U_h^T W`` stay as they were, and with them what the matrix does to the
    inputs along its largest directions.

    The paper trains the factors of the rest and projects their gradients alone. Under Adam such a
    step leaves the free subspace, and weight decay on the factors shrinks the rest of ``W`` itself.
    Here ``W`` is trained and the projection holds for all that the optimizer does.

    Costs a singular value decomposition of each matrix an experience, and a copy of the matrices
    during a step.

    Args:
        share: Of the singular directions of a matrix, in [0, 1).
        schedule: ``constant``, or ``growing``: in experience ``i`` of ``n``, counted from 0,
            ``share + (1 - share) i / n``.
        rest: Whether embeddings, output head, biases and normalisation weights are ``frozen``, as
            in peft, or ``trained`` as in full fine-tuning.
    """

    family = "mask"
    needs = ("boundaries",)
    bytes_per_parameter = "8 * share"
    trade_off = TradeOff("share", (0.1, 0.3, 0.5, 0.7, 0.9))
    evidence = (
        "Its authors report up to seven points of average accuracy more than ``o_lora`` on "
        "sequences of tasks."
    )
    refuses_adapter = "keeps the largest directions of the model's own weights"

    def __init__(
        self,
        share: float = 0.5,
        schedule: Literal["constant", "growing"] = "constant",
        rest: Literal["frozen", "trained"] = "frozen",
    ) -> None:
        if not 0 <= share < 1:
            raise UserError(f"osf: share={share} must lie in [0, 1)")
        self.share = share
        self.schedule = schedule
        self.rest = rest
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        self._kept_energy = 0.0
        self._step: PartialStep | None = None

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Settings with which nothing is left of it."""
        if self.share == 0 and self.rest == "trained" and self.schedule == "constant":
            return ["osf with share=0 and rest=trained trains as full_sft does"]
        return ()

    def check_model(self, model: nn.Module) -> None:
        """There must be matrices of numbered blocks."""
        if not block_matrices(trained_parameters(model)):
            raise UserError(
                "osf finds no matrices of numbered transformer blocks in this model: use another "
                "strategy, lora for example"
            )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Freeze what is not projected, if that is asked for."""
        if self.rest == "frozen":
            chosen = block_matrices(trained_parameters(model))
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in chosen)
        return model

    @torch.no_grad()
    def begin_experience(self, experience: Experience) -> None:
        """Find the directions that are kept until it ends."""
        self._left, self._right = {}, {}
        share, kept, whole = self._share_in(experience.index), 0.0, 0.0
        for name, parameter in block_matrices(trained_parameters(self.context.model)).items():
            left, values, right = torch.linalg.svd(parameter.float(), full_matrices=False)
            count = int(share * values.shape[-1])
            whole += float(values.double().square().sum())
            kept += float(values[..., :count].double().square().sum())
            if count:
                self._left[name] = left[..., :count].contiguous()
                self._right[name] = right[..., :count, :].mT.contiguous()
        self._kept_energy = kept / whole if whole else 0.0

    @torch.no_grad()
    def gradients_ready(self, step: Step) -> None:
        """Project the gradients, so that clipping and moments are of what may move."""
        trained = trained_parameters(step.model)
        self._step = PartialStep({name: trained[name] for name in self._left})
        for name, parameter in self._step.parameters.items():
            if parameter.grad is not None:
                parameter.grad.copy_(self._projected(name, parameter.grad))
        self._step.take()

    def parameters_updated(self, step: Step) -> None:
        """Project what the optimizer did."""
        if self._step is not None:
            generator = self.context.torch_generator(f"rounding of step {step.number}")
            self._step.change(self._projected, generator)
        self._step = None

    def diagnostics(self) -> dict[str, float]:
        """Share of the matrices' squared singular values that is kept."""
        return {"kept_energy": self._kept_energy}

    def state_dict(self) -> dict[str, Tensor]:
        """The directions that are kept."""
        state = {f"left.{name}": tensor for name, tensor in self._left.items()}
        state |= {f"right.{name}": tensor for name, tensor in self._right.items()}
        return state | {"kept_energy": torch.tensor(self._kept_energy, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        self._left = {name: t.clone() for name, t in state_part(state, "left.").items()}
        self._right = {name: t.clone() for name, t in state_part(state, "right.").items()}
        self._kept_energy = float(state["kept_energy"])

    def _share_in(self, experience: int) -> float:
        if self.schedule == "constant":
            return self.share
        count = max(self.context.experience_count, experience + 1)
        return self.share + (1 - self.share) * experience / count

    def _projected(self, name: str, step: Tensor) -> Tensor:
        """The part of a step that touches none of the kept directions."""
        left, right = self._left[name], self._right[name]
        step = step.float()
        step = step - left @ (left.mT @ step)
        return step - (step @ right) @ right.mT
