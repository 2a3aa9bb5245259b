"""Freeze the embeddings and the lowest blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    Strategy,
    TradeOff,
    UserError,
    block_count,
    block_number,
    frozen_share,
    register_strategy,
    trained_parameters,
)


@register_strategy("freeze_bottom")
class FreezeBottom(Strategy):
    """The bottom of the model is not trained (Zheng et al. 2025, arXiv 2501.13453).

    Its authors find that much of what looks forgotten is lost alignment of the lowest blocks. The
    frozen parameters have no gradient, so no optimizer and no weight decay moves them, and they
    cost no optimizer state. An output head that is tied to the embeddings is frozen with them.

    Args:
        share: Of the transformer blocks, from the bottom, in [0, 1); rounded up.
        embeddings: Whether token and position embeddings are frozen too.
        first_experience: Whether the first experience is frozen already; otherwise it is trained
            in full.
    """

    family = "mask"
    bytes_per_parameter = "0"
    trade_off = TradeOff("share", (0.0, 0.1, 0.25, 0.5))
    evidence = (
        "Its authors report 44 % instead of 11 % after a sequence of biography tasks, where other "
        "methods without old data reach at most 22 %."
    )

    def __init__(
        self, share: float = 0.1, embeddings: bool = True, first_experience: bool = True
    ) -> None:
        if not 0 <= share < 1:
            raise UserError(f"freeze_bottom: share={share} must lie in [0, 1)")
        self.share = share
        self.embeddings = embeddings
        self.acts_from = 0 if first_experience else 1
        self._frozen: list[str] = []

    def check_model(self, model: nn.Module) -> None:
        """There must be numbered blocks."""
        if not block_count(name for name, _ in model.named_parameters()):
            raise UserError(
                "freeze_bottom finds no numbered transformer blocks in this model: use another "
                "strategy, hft or low_learning_rate for example"
            )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Freeze, if that is from the beginning."""
        if self.acts_from == 0:
            self._freeze(model)
        return model

    def begin_experience(self, experience: Experience) -> None:
        """Freeze, if that is from here on."""
        if experience.index >= self.acts_from and not self._frozen:
            self._freeze(self.context.model)

    def state_dict(self) -> dict[str, Tensor]:
        """Whether the bottom is frozen."""
        return {"frozen": torch.tensor(bool(self._frozen))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Freeze it, if it was."""
        if state["frozen"] and not self._frozen:
            self._freeze(self.context.model)

    def state_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def diagnostics(self) -> dict[str, float]:
        """The share of the weights that is held still."""
        model = self.context.model
        return {"achieved_ratio": frozen_share(model, {*self._frozen, *trained_parameters(model)})}

    def _freeze(self, model: nn.Module) -> None:
        blocks = math.ceil(self.share * block_count(name for name, _ in model.named_parameters()))
        embedded = {id(p) for p in _embeddings(model)} if self.embeddings else set()
        for name, parameter in trained_parameters(model).items():
            number = block_number(name)
            if id(parameter) in embedded or (number is not None and number < blocks):
                parameter.requires_grad_(False)
                self._frozen.append(name)


def _embeddings(model: nn.Module) -> list[Tensor]:
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [table.weight for table in tables]
