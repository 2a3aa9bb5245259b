"""PackNet: each experience keeps a part of the weights that are left, for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from epi_bench import (
    ChosenWeights,
    Experience,
    OwnedWeights,
    Step,
    TradeOff,
    TrainingSpec,
    UserError,
    block_matrices,
    register_strategy,
    require_blocks,
    state_part,
    top_share,
    trained_parameters,
)


@register_strategy("packnet")
class PackNet(ChosenWeights):
    """Each experience keeps a part of the weights that are still free; they never move again.

    PackNet (Mallya and Lazebnik 2018, arXiv 1711.05769), for pretrained language models, on the
    changes instead of the weights.

    An experience first trains all free weights. Then, in each matrix of the blocks, those with the
    largest ``|theta - theta_0|`` become its own, all but the share ``prune`` of the free ones; the
    others go back to the base model's ``theta_0`` and stay free, and the rest of the steps trains
    its own weights alone. What has an owner is bit-identical from then on, so that nothing that was
    learned is lost but by what is trained beside it. Embeddings, output head, normalisation weights
    and biases belong to the first experience.

    The original sets released weights to 0, which would ruin a pretrained model, and uses each
    task's own part at test time; here one model does all tasks. Steps of the second training are a
    part of the experience's, not added to them.

    Args:
        prune: Share of the free weights that an experience gives back, in (0, 1).
        retrain: Steps of the second training as a share of the first's, at least 0.
    """

    needs = ("boundaries", "old weights")
    bytes_per_parameter = "9.5 + 8 / width"
    trade_off = TradeOff("prune", (0.3, 0.5, 0.7, 0.8, 0.9))

    def __init__(self, prune: float = 0.5, retrain: float = 0.5) -> None:
        if not 0 < prune < 1:
            raise UserError(f"packnet: prune={prune} must lie in (0, 1)")
        if not 0 <= retrain < float("inf"):
            raise UserError(f"packnet: retrain={retrain} must be at least 0")
        super().__init__()
        self.prune = prune
        self.retrain = retrain
        self._owned = OwnedWeights({})
        self._base: dict[str, Tensor] = {}
        self._is_pruned = False

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether the last experience still has weights to train."""
        left = self.prune ** (len(steps) - 1)
        if left >= 0.01:
            return ()
        return [
            f"packnet leaves the last of {len(steps)} experiences {left:.1g} of the weights: raise "
            "its option prune"
        ]

    def check_model(self, model: nn.Module) -> None:
        """There must be numbered blocks."""
        require_blocks(self.name, model)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep the base model's weights; none has an owner."""
        trained = trained_parameters(model)
        self._owned = OwnedWeights(trained)
        self._base = {n: p.detach().clone() for n, p in block_matrices(trained).items()}
        return model

    def begin_experience(self, experience: Experience) -> None:
        """Hold what has an owner."""
        self._is_pruned = False
        self.hold({name: ~free for name, free in self._owned.free().items()})

    def parameters_updated(self, step: Step) -> None:
        """Undo what the optimizer did to weights that are held; choose, when it is time."""
        super().parameters_updated(step)
        first = max(round(step.experience.steps / (1 + self.retrain)), 1)
        if step.number_in_experience == first and not self._is_pruned:
            self._choose(step.experience)

    def end_experience(self, experience: Experience) -> None:
        """Choose, if that has not been done."""
        if not self._is_pruned:
            self._choose(experience)
        super().end_experience(experience)

    @torch.no_grad()
    def _choose(self, experience: Experience) -> None:
        """Take the most changed of the free weights, give the others back, hold all but those."""
        owner, parameters, free = (
            experience.index + 1,
            self.isolation.parameters,
            self._owned.free(),
        )
        for name, base in self._base.items():
            parameter, is_free = parameters[name], free[name]
            change = (parameter.detach().float() - base.float()).abs() * is_free
            count = int(is_free.sum())
            kept = count - int(self.prune * count)
            mine = top_share({name: change}, kept / parameter.numel())[name]
            self._owned.give({name: mine}, owner)
            released = is_free & ~mine
            parameter.copy_(torch.where(released, base.to(parameter.dtype), parameter))
        others = {name: mask for name, mask in free.items() if name not in self._base}
        self._owned.give(others, owner)
        self.hold({name: ~mask for name, mask in self._owned.of(owner).items()})
        self._is_pruned = True

    def diagnostics(self) -> dict[str, float]:
        """The mask's statistics, and what is left for further experiences."""
        found = super().diagnostics()
        return found | ({"free_share": self._owned.free_share} if found else {})

    def state_dict(self) -> dict[str, Tensor]:
        """The mask, whose each weight is, and the base model's weights."""
        return (
            {f"mask.{name}": tensor for name, tensor in super().state_dict().items()}
            | {f"owner.{name}": tensor for name, tensor in self._owned.state_dict().items()}
            | {f"base.{name}": tensor for name, tensor in self._base.items()}
            | {"is_pruned": torch.tensor(self._is_pruned)}
        )

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        super().load_state_dict(state_part(state, "mask."))
        self._owned.load_state_dict(state_part(state, "owner."))
        self._base = {name: t.clone() for name, t in state_part(state, "base.").items()}
        self._is_pruned = bool(state["is_pruned"])

    def state_bytes(self) -> int:
        """Bytes of all of it."""
        base = sum(tensor.nbytes for tensor in self._base.values())
        return super().state_bytes() + self._owned.bytes() + base
