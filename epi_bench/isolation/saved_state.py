"""States of several parts in one flat table of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def state_part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a saved state whose names begin with a prefix, without it.

    Args:
        state: Tensors by name, as a strategy's ``state_dict`` returns them.
        prefix: Of the names, with its separator.

    Returns:
        The tensors themselves; what keeps and changes them must copy them.

    >>> state_part({"anchor.w": 1, "stiffness.w": 2}, "anchor.")
    {'w': 1}
    """
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
