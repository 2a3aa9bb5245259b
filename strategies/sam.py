"""SAM: follow the gradient of the worst weights nearby."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from epi_bench import (
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    perturbed_weights,
    register_strategy,
    trained_parameters,
)


@register_strategy("sam")
class SharpnessAwareMinimization(Strategy):
    """Each step takes the gradient at the nearby weights where the loss is highest.

    Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412); reported to lessen the
    forgetting of language models (Li et al. 2024, arXiv 2406.04836, with ``rho`` 2).

        ``g' = grad L(theta + rho g / |g|)``, then the optimizer steps from ``theta`` with ``g'``

    ``|g|`` is the norm over all trained weights, and ``g`` the complete gradient of the step: its
    micro-batches go through the model a second time, with the same dropout masks. Clipping is of
    ``g'``. Afterwards the weights are what they were, bit for bit. Costs twice the time, and
    copies of weights and gradient within a step.

    Args:
        rho: Distance of the nearby weights, at least 0; 0 is full fine-tuning.
    """

    family = "optimizer"
    needs = ("own loop",)
    bytes_per_parameter = "0"
    trade_off = TradeOff("rho", (0.01, 0.05, 0.1, 0.5, 2.0))

    def __init__(self, rho: float = 0.05) -> None:
        if not 0 <= rho < float("inf"):
            raise UserError(f"sam: rho={rho} must be at least 0")
        self.rho = rho

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether it is full fine-tuning."""
        return ["sam with rho=0 is full fine-tuning"] if self.rho == 0 else ()

    def gradients_ready(self, step: Step) -> None:
        """Put the gradient at the nearby weights in place of the step's."""
        trained = trained_parameters(step.model)
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        if self.rho == 0 or not norm > 0:
            return
        generator = self.context.generator(f"rounding at step {step.number}")
        with perturbed_weights(trained, gradients, float(self.rho / norm), generator):
            step.recompute_gradients()
