"""Telling a model with an adapter from one without."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is one of peft's, which holds another model and an adapter for it."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")
