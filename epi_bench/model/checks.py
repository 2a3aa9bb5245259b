"""Which models are refused: those whose numbers would say nothing about the files they came from.

Some checks read configuration and file headers only and come before the weights are loaded; the
others look at the loaded model. Every refusal is a ``UserError`` of one line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LARGEST_UNUSED_SHARE = 0.1
"""Share of a checkpoint's tensors that may lie unused (heads for other tasks, say)."""


SHOWN_NAMES = 3
"""Tensors or tokens that a message names."""


PROBE_LENGTH = 16
"""Tokens of the two texts that tell what the model sees and how it counts positions."""


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
            f"({_listed(missing)}), which would be random: give the folder of a whole causal "
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


def check_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose predictions depend on the tokens they predict.

    Two texts that differ in their second half alone must have the same logits in the first.

    Raises:
        UserError: If they have not, as with an encoder such as BERT.
    """
    shared = _probe_length(model) // 2
    if not shared:
        return
    logits = _probe_logits(model)[:, :shared]
    if _differ(model, logits[0], logits[1]):
        raise UserError(
            f"{name} ({type(model).__name__}) sees the tokens that it has to predict, as an "
            "encoder does: give a causal language model"
        )


def check_positions(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that counts the positions of a text from another number than 0.

    Prompts of different lengths are scored together and their positions given, from 0; training
    leaves them to the model. Both must mean the same.

    Raises:
        UserError: If they do not, as with RoBERTa, which counts from its padding token's number.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return
    import torch

    positions = torch.arange(_probe_length(model), device=model.device).expand(2, -1)
    if _differ(model, _probe_logits(model), _probe_logits(model, position_ids=positions)):
        raise UserError(
            f"{name} ({type(model).__name__}) does not count the positions of a text from 0, so "
            "its scores and answers would be wrong: give another model"
        )


def _probe_length(model: PreTrainedModel) -> int:
    return min(PROBE_LENGTH, position_limit(model.config) or PROBE_LENGTH)


def _probe_logits(model: PreTrainedModel, **inputs: Tensor) -> Tensor:
    """Logits of two texts from all over the vocabulary that differ in their second half."""
    import torch

    rows, length = embedding_rows(model), _probe_length(model)
    texts = torch.arange(2 * length).mul(max(1, rows // (2 * length))).remainder(rows)
    texts = texts.view(2, length)
    texts[1, : length // 2] = texts[0, : length // 2]
    with torch.no_grad():
        logits: Tensor = model(input_ids=texts.to(model.device), **inputs).logits
    return logits.float()


def _differ(model: PreTrainedModel, first: Tensor, second: Tensor) -> bool:
    """Whether logits differ by more than rounding.

    That may differ: a mixture of experts computes each expert's tokens together.
    """
    import torch

    allowed = 1e-4 if model.dtype == torch.float32 else 2e-2
    largest = max(float(first.abs().max()), float(second.abs().max()))
    return float((first - second).abs().max()) > allowed * largest


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Special tokens that no text holds may lie beyond the embedding, as the image token of a text
    model does; :func:`check_fit` sees to it that none is used.

    Raises:
        UserError: If text, padding or the end of a text needs such a token.
    """
    rows = embedding_rows(model)
    needed = {tokenizer.pad_token_id, tokenizer.eos_token_id}
    special = set(tokenizer.all_special_ids) - needed
    beyond = [
        token
        for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if index >= rows and index not in special
    ]
    if beyond:
        raise UserError(
            f"the tokenizer of {name} has tokens that the model, which embeds {rows}, does not "
            f"know ({_listed([repr(token) for token in beyond])}): give the tokenizer that belongs "
            "to the model, or save the model after resize_token_embeddings"
        )


def check_fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Mapping[str, int],
    with_answers: Mapping[str, int],
    texts: Iterable[Sequence[int]],
) -> list[str]:
    """Refuse a run whose texts are longer than the model reads, or use tokens it does not know.

    Args:
        model: In any mode.
        tokenizer: Of the model.
        lengths: What is read -> tokens of the longest.
        with_answers: What is generated -> tokens of the longest prompt and answer there may be.
        texts: Token ids of everything that is read.

    Returns:
        Warnings: a model with rotary positions may generate more than it was made for.

    Raises:
        UserError: If something does not fit.
    """
    limit = position_limit(model.config)
    rotary = any("rotary" in name for name, _ in model.named_modules())
    for what, length in lengths.items():
        if limit is not None and length > limit:
            raise UserError(
                f"{what} has {length} tokens, the model reads {limit}: lower data.max_length",
                setting="data.max_length",
            )
    warnings = []
    for what, length in with_answers.items():
        if limit is not None and length > limit:
            problem = f"{what} may take {length} tokens with its answer, the model reads {limit}"
            if not rotary:
                raise UserError(
                    f"{problem}: lower data.max_length or evaluation.max_new_tokens",
                    setting=("data.max_length", "evaluation.max_new_tokens"),
                )
            warnings.append(f"{problem}: what follows is worth little")
    rows = embedding_rows(model)
    if max(tokenizer.get_vocab().values()) < rows:
        return warnings
    for text in texts:
        if max(text) >= rows:
            raise UserError(
                f"a text of this run holds the token {tokenizer.convert_ids_to_tokens(max(text))!r}"
                f" ({max(text)}), the model embeds {rows} tokens: give the tokenizer that belongs "
                "to the model"
            )
    return warnings


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens the model has an embedding for."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def position_limit(config: Any) -> int | None:
    """The longest text that a model was made for, in tokens; ``None`` if it has no limit."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if isinstance(factor, int | float):
        limit = max(limit, int(factor * (rope.get("original_max_position_embeddings") or limit)))
    return limit


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
            f"({_listed(left_out)}): it says fewer layers or experts than the weights have"
        )
    if tensors is not None and len(unused) > LARGEST_UNUSED_SHARE * tensors:
        raise UserError(
            f"{type(model).__name__} uses {tensors - len(unused)} of the {tensors} tensors in the "
            f"weights of {name} (not {_listed(unused)}): the configuration is that of another model"
        )
    return [f"{len(unused)} tensors in the weights of {name} are not used: {_listed(unused)}"]


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


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
