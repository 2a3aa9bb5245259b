"""LoTA: train the few weights that a first training changes most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from epi_bench import (
    ChosenWeights,
    Experience,
    OwnedWeights,
    TradeOff,
    TrainingSpec,
    UserError,
    block_matrices,
    probed_weights,
    register_strategy,
    require_blocks,
    state_part,
    top_share,
    trained_parameters,
)


@register_strategy("lota")
class LotteryTicketAdaptation(ChosenWeights):
    """Each experience trains the few weights that a trial training changes most.

    Lottery ticket adaptation (Panda et al. 2024, arXiv 2406.16797), on the update instead of the
    gradient.

    Where an experience begins it is trained plainly, as a trial: ``theta_F``. Of the weights of the
    blocks' matrices that no earlier experience has, the largest ``1 - sparsity`` by
    ``|theta_F - theta|``, over all matrices together, are its own. The weights go back to
    ``theta``, and in the experience only its own weights move; all others are bit-identical, so
    that the changes of different experiences have no weight in common.

    Costs the trial's steps, and two copies of the weights in it.

    Args:
        sparsity: Share of the blocks' weights that an experience does not train, in [0, 1).
        probe: Steps of the trial as a share of the experience's, in (0, 1].
    """

    needs = ("boundaries", "own loop")
    bytes_per_parameter = "5.5 + 8 / width"
    trade_off = TradeOff("sparsity", (0.5, 0.7, 0.9, 0.95, 0.99))
    evidence = "Its authors report full fine-tuning's scores with a tenth of the weights."

    def __init__(self, sparsity: float = 0.9, probe: float = 1.0) -> None:
        if not 0 <= sparsity < 1:
            raise UserError(f"lota: sparsity={sparsity} must lie in [0, 1)")
        if not 0 < probe <= 1:
            raise UserError(f"lota: probe={probe} must lie in (0, 1]")
        super().__init__()
        self.sparsity = sparsity
        self.probe = probe
        self._owned = OwnedWeights({})

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether there are weights enough for all experiences."""
        asked = (1 - self.sparsity) * len(steps)
        if asked <= 1 + 1e-9:
            return ()
        return [
            f"lota gives each of {len(steps)} experiences {1 - self.sparsity:.3g} of the weights "
            f"as its own, {asked:.3g} times all there are: the last get fewer or none; raise its "
            "option sparsity"
        ]

    def check_model(self, model: nn.Module) -> None:
        """There must be numbered blocks."""
        require_blocks(self.name, model)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """No weight has an owner."""
        self._owned = OwnedWeights(block_matrices(trained_parameters(model)))
        return model

    def begin_experience(self, experience: Experience) -> None:
        """Find out what a training would change, and hold all but the most changed."""
        steps = max(round(self.probe * experience.steps), 1)
        purpose = f"trial of experience {experience.index}"
        probed = probed_weights(self.context, experience.examples, steps, purpose)
        parameters, free = self.isolation.parameters, self._owned.free()
        changes = {
            name: (probed[name].float() - parameters[name].detach().float()).abs() * is_free
            for name, is_free in free.items()
        }
        mine = top_share(changes, 1 - self.sparsity)
        self._owned.give(mine, experience.index + 1)
        held = {n: torch.ones_like(p, dtype=torch.bool) for n, p in parameters.items()}
        self.hold(held | {name: ~mask for name, mask in mine.items()})

    def diagnostics(self) -> dict[str, float]:
        """The mask's statistics, and what is left for further experiences."""
        found = super().diagnostics()
        return found | ({"free_share": self._owned.free_share} if found else {})

    def state_dict(self) -> dict[str, Tensor]:
        """The mask, and whose each weight is."""
        owners = {f"owner.{name}": t for name, t in self._owned.state_dict().items()}
        return super().state_dict() | owners

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._owned.load_state_dict(state_part(state, "owner."))
        super().load_state_dict({k: v for k, v in state.items() if not k.startswith("owner.")})

    def state_bytes(self) -> int:
        """Bytes of both."""
        return super().state_bytes() + self._owned.bytes()
