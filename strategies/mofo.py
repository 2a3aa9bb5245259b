"""MoFO: only the weights with the largest momentum move."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from epi_bench import (
    PartialStep,
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    register_strategy,
    top_share,
    trained_parameters,
)

MOMENTUM = ("exp_avg", "momentum_buffer")
"""What optimizers call the mean of their gradients: Adam, SGD."""


@register_strategy("mofo")
class MoFO(Strategy):
    """Only the weights of each matrix with the largest momentum move.

    Momentum-filtered optimizer (Chen et al. 2025, arXiv 2407.20999).

    The optimizer keeps its moments of all weights; in each matrix the ``share`` of the weights
    with the largest ``|m|`` moves and the rest stays bit-identical, weight decay included:

        ``theta <- theta + step (.) [|m| is among the top share of its matrix]``

    Biases and normalisation weights always move. Where a momentum is exactly zero (a token that was
    never seen) nothing moves. Costs a copy of the weights during a step.

    Args:
        share: Of each matrix, in (0, 1]; 1 is full fine-tuning.
    """

    family = "mask"
    bytes_per_parameter = "0"
    trade_off = TradeOff("share", (0.5, 0.2, 0.15, 0.1, 0.05))

    changes_gradients = False

    def __init__(self, share: float = 0.15) -> None:
        if not 0 < share <= 1:
            raise UserError(f"mofo: share={share} must lie in (0, 1]")
        self.share = share
        self._step: PartialStep | None = None

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """The optimizer must keep a momentum."""
        if training.optimizer == "adafactor":
            raise UserError(
                "mofo chooses by the optimizer's momentum, and adafactor keeps none: set optimizer "
                "to adamw or sgd",
                setting="training.optimizer",
            )
        return ()

    def gradients_ready(self, step: Step) -> None:
        """Remember the matrices."""
        if self.share == 1:
            return
        trained = trained_parameters(step.model)
        self._step = PartialStep({name: p for name, p in trained.items() if p.dim() >= 2})
        self._step.take()

    def parameters_updated(self, step: Step) -> None:
        """Undo the step where the momentum is small."""
        if self._step is None:
            return
        moves: dict[str, Tensor] = {}
        for name, parameter in self._step.parameters.items():
            state = step.optimizer.state.get(parameter, {})
            momentum = next((state[key] for key in MOMENTUM if key in state), None)
            if momentum is not None:  # else it had no gradient, and was not stepped
                moves |= top_share({name: momentum.abs()}, self.share)
        self._step.undo(moves)
        self._step = None
