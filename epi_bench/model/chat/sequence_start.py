"""What a tokenizer puts before every text: the beginning-of-sequence token, where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sequence_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids that the tokenizer adds before a text; empty for most instruction models.

    Args:
        tokenizer: Asked what it adds, because names and settings (``bos_token``,
            ``add_bos_token``) do not tell.
    """
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for length in range(len(whole) - len(bare) + 1):
        if whole[length : length + len(bare)] == bare:
            return tuple(whole[:length])
    return ()
