"""What a model can read: the tokens that it embeds, and how long a text may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError, some_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
            f"know ({some_of([repr(token) for token in beyond])}): give the tokenizer that belongs "
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
    _check_tokens(model, tokenizer, texts)
    return warnings


def _check_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[Sequence[int]]
) -> None:
    rows = embedding_rows(model)
    if max(tokenizer.get_vocab().values()) < rows:
        return
    for text in texts:
        if max(text) >= rows:
            raise UserError(
                f"a text of this run holds the token {tokenizer.convert_ids_to_tokens(max(text))!r}"
                f" ({max(text)}), the model embeds {rows} tokens: give the tokenizer that belongs "
                "to the model"
            )


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
