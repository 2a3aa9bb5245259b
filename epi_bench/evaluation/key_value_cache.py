"""Reading a prompt once and going on from there: what models allow it, and the inputs it takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import DynamicCache

_NEEDED = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"}


def empty_cache(model: Any) -> DynamicCache | None:
    """A key-value cache whose rows can be selected and repeated, to be filled by ``model``.

    ``None`` if the model has none: recurrent models, models that take no positions, and adapters
    that put tokens of their own before the prompt.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if not _forward_parameters(model) >= _NEEDED or _puts_tokens_before(model):
        return None
    cache = DynamicCache(config=model.config)
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return cache if all(type(layer) in known for layer in cache.layers) else None


def accepts_logits_to_keep(model: nn.Module) -> bool:
    """Whether ``model.forward`` can be asked for the logits of some positions alone."""
    return "logits_to_keep" in _forward_parameters(model)


def left_padded(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (batch, length) of prompts that all end in the last column."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position of each token among those that are no padding (batch, length)."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs go."""
    return next(model.parameters()).device


def _forward_parameters(model: Any) -> set[str]:
    """Argument names of the language model's ``forward``, looked up below PEFT's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


def _puts_tokens_before(model: nn.Module) -> bool:
    adapters = getattr(model, "peft_config", None) or {}
    return any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters.values())
