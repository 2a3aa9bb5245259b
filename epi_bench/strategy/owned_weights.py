"""Which experience each weight belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epi_bench.errors import TrainingFailedError

MOST_OWNERS = 255
"""Experiences that a byte can tell apart, beside none."""


class OwnedWeights:
    """Gives each weight to at most one experience, for good; costs a byte a weight.

    Args:
        parameters: By name.

    Attributes:
        owners: For each parameter a tensor of its shape with owners from 1 on, 0 for none.

    Example:
        >>> owned = OwnedWeights({"w": nn.Parameter(torch.zeros(3))})
        >>> owned.give({"w": torch.tensor([True, False, False])}, 1)
        >>> owned.give({"w": torch.tensor([True, True, False])}, 2)  # the first has an owner
        >>> owned.owners["w"].tolist()
        [1, 2, 0]
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.owners = {
            name: torch.zeros_like(p, dtype=torch.uint8, requires_grad=False)
            for name, p in parameters.items()
        }

    def give(self, masks: Mapping[str, Tensor], owner: int) -> None:
        """Give free weights to an owner.

        Args:
            masks: For some parameters, which weights; those that have an owner keep it.
            owner: From 1 on.

        Raises:
            TrainingFailedError: If there are more owners than a byte tells apart.
        """
        if owner > MOST_OWNERS:
            raise TrainingFailedError(f"at most {MOST_OWNERS} experiences can own weights")
        for name, mask in masks.items():
            self.owners[name][mask & (self.owners[name] == 0)] = owner

    def free(self) -> dict[str, Tensor]:
        """Which weights have no owner."""
        return {name: owners == 0 for name, owners in self.owners.items()}

    def of(self, owner: int) -> dict[str, Tensor]:
        """Which weights belong to an owner.

        Args:
            owner: From 1 on.
        """
        return {name: owners == owner for name, owners in self.owners.items()}

    @property
    def free_share(self) -> float:
        """Share of the weights that have no owner, in [0, 1]."""
        free = sum(int((owners == 0).sum()) for owners in self.owners.values())
        return free / max(sum(owners.numel() for owners in self.owners.values()), 1)

    def bytes(self) -> int:
        """Bytes held."""
        return sum(owners.nbytes for owners in self.owners.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The owners."""
        return dict(self.owners)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        for name, owners in state.items():
            self.owners[name].copy_(owners)
