"""TALR: tokens that the model finds unlikely are learned more slowly."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from epi_bench import Experience, Strategy, TradeOff, UserError, register_strategy, token_losses

FIRST_EXAMPLES = 64
"""Of the first experience, at most, whose losses say the scale of the first step."""


@register_strategy("talr")
class TokenAdaptiveLossReweighting(Strategy):
    """Tokens weigh the more, the likelier they are now (arXiv 2509.20758).

    At every step each supervised token gets the weight

        ``w_t = max(exp(-nll_t / tau), floor)``, ``loss = sum_t w_t nll_t / N``

    with the loss ``nll_t`` that the model being trained gives it at this step (no gradient goes
    through the weight), and ``tau`` the median of the examples' mean losses. ``N`` is the number of
    supervised tokens, so the loss is smaller than the plain one.

    The paper takes the median of the step's own examples. Here it is that of the step before (of
    the run's first step: of up to 64 examples), so that the weights do not depend on how a step is
    cut into micro-batches. In training on several processes each takes the median of its own part.
    The floor is this project's. No other forward pass; keeps one number.

    Args:
        floor: Least weight of a token, in [0, 1]; 1 is full fine-tuning.
    """

    family = "data"
    bytes_per_parameter = "0"
    trade_off = TradeOff("floor", (1.0, 0.5, 0.25, 0.1, 0.0))
    evidence = (
        "On MedCalc at a learning rate of 1e-6 its authors report 0.717 instead of 0.692 on "
        "general ability, and 0.501 instead of 0.534 on the task."
    )

    def __init__(self, floor: float = 0.0) -> None:
        if not 0 <= floor <= 1:
            raise UserError(f"talr: floor={floor} must lie in [0, 1]")
        self.floor = floor
        self._scale = 0.0
        self._seen: list[Tensor] = []

    def begin_experience(self, experience: Experience) -> None:
        """Measure the scale of the run's first step."""
        if experience.index > 0:
            return
        draws = self.context.generator("first scale")
        count = min(FIRST_EXAMPLES, len(experience.examples))
        drawn = draws.sample(list(experience.examples), count)
        found = token_losses(self.context, self.context.model, drawn)
        self._scale = median(float(losses.nanmean()) for losses in found)

    def token_weights(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        """What each token's loss is multiplied by."""
        labels = batch["labels"][:, 1:]
        supervised = labels >= 0
        losses = cross_entropy(
            logits[:, :-1].float().transpose(1, 2), labels, reduction="none", ignore_index=-100
        )
        weights = likeliness(losses, self._scale).clamp(min=self.floor)
        counts = supervised.sum(1)
        self._seen.append(((losses * supervised).sum(1) / counts)[counts > 0])
        return weights

    def penalty(self, model: nn.Module) -> None:
        """No penalty: the step's last micro-batch has been seen, so its scale is the next one's."""
        seen = torch.cat(self._seen).tolist()
        self._seen = []
        if seen:
            self._scale = median(seen)

    def diagnostics(self) -> dict[str, float]:
        """The scale, in nats a token."""
        return {"scale": self._scale}

    def state_dict(self) -> dict[str, Tensor]:
        """The scale of the next step."""
        return {"scale": torch.tensor(self._scale, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        self._scale = float(state["scale"])


def likeliness(losses: Tensor, scale: float) -> Tensor:
    """``exp(-loss / scale)``; 1 where the scale is 0.

    >>> likeliness(torch.tensor([0.0, 2.0]), 2.0).tolist()
    [1.0, 0.3678794503211975]

    Args:
        losses: In nats, of any shape.
        scale: In nats, at least 0.
    """
    return (-losses / scale).exp() if scale > 0 else torch.ones_like(losses)
