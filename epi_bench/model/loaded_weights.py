"""Whether a loaded model holds what its files say: all of the weights, and numbers in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError, some_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_UNUSED_SHARE = 0.1
"""Share of a checkpoint's tensors that may lie unused (heads for other tasks, say)."""


def check_loaded(
    model: PreTrainedModel, info: Mapping[str, Collection[Any]], tensors: int | None, name: str
) -> list[str]:
    """Refuse a model that does not hold what its files say.

    Args:
        model: As transformers made it.
        info: Its loading information (``output_loading_info``).
        tensors: In the files; ``None`` where that is not known.
        name: Of the model, for messages.

    Returns:
        Warnings.

    Raises:
        UserError: If a weight would be random or is not finite, if a part of the weights is left
            out, or if the model sees the tokens that it has to predict.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"the weights of {name} lack {len(missing)} of the model's tensors "
            f"({some_of(missing)}), which would be random: give the folder of a whole causal "
            f"language model ({type(model).__name__})"
        )
    if info["mismatched_keys"]:
        key, stored, configured = min(info["mismatched_keys"])
        raise UserError(
            f"the weights of {name} do not fit its configuration: {key} has the shape "
            f"{tuple(stored)}, the configuration says {tuple(configured)}: copy the model again"
        )
    if info["error_msgs"]:
        first = min(info["error_msgs"]).strip().splitlines()[0]
        raise UserError(f"cannot load the weights of {name}: {first}")
    warnings = _check_unused(model, sorted(info["unexpected_keys"]), tensors, name)
    _check_finite(model, name)
    return warnings


def _check_unused(
    model: PreTrainedModel, unused: list[str], tensors: int | None, name: str
) -> list[str]:
    """Warn of tensors that no part of the model takes; refuse if they are a part of it."""
    if not unused:
        return []
    parts = {_without_numbers(key) for key in model.state_dict()}
    left_out = [
        key for key in unused if _without_numbers(key) in parts and not _predicts_ahead(model, key)
    ]
    if left_out:
        raise UserError(
            f"the configuration of {name} leaves out {len(left_out)} tensors of the weights "
            f"({some_of(left_out)}): it says fewer layers or experts than the weights have"
        )
    if tensors is not None and len(unused) > LARGEST_UNUSED_SHARE * tensors:
        raise UserError(
            f"{type(model).__name__} uses {tensors - len(unused)} of the {tensors} tensors in the "
            f"weights of {name} (not {some_of(unused)}): the configuration is that of another model"
        )
    return [f"{len(unused)} tensors in the weights of {name} are not used: {some_of(unused)}"]


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def _predicts_ahead(model: PreTrainedModel, key: str) -> bool:
    """Whether a tensor is of the layers, after the model's own, that predict several tokens."""
    text = model.config.get_text_config()
    extra = getattr(text, "num_nextn_predict_layers", None) or 0
    first = getattr(text, "num_hidden_layers", 0)
    layer = re.search(r"layers\.(\d+)\.", key)
    return layer is not None and first <= int(layer[1]) < first + extra


def _check_finite(model: PreTrainedModel, name: str) -> None:
    for key, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"the weights of {name} are not finite ({key} holds NaN or infinity): "
                "the training that saved them failed; take an earlier checkpoint"
            )
