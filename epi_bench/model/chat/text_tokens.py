"""The token ids of a running text, in which nothing is a control token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epi_bench.model.chat.control_tokens import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a running text, all of it data, without those a tokenizer adds around it.

    Args:
        tokenizer: Of the model.
        text: Of any length.
    """
    ids = ControlTokens(tokenizer).encode_data(text)
    if ids is None:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)
