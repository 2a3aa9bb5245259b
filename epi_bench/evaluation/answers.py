"""From generated tokens to an answer: what ends it, and which of its text counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from epi_bench.model.chat.drafts import DRAFT_MARKS, without_drafts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from epi_bench.model.chat.chat_encoder import ChatEncoder
    from epi_bench.model.chat.encoded_example import EncodedExample


def ending_tokens(
    model: PreTrainedModel, encoder: ChatEncoder, references: Sequence[EncodedExample] = ()
) -> list[int]:
    """Token ids that end an answer.

    These are the end-of-sequence tokens of the tokenizer and of the model's generation settings
    (which may name several), and what the chat template closes a turn with.

    Args:
        model: With its ``generation_config``.
        encoder: Knows tokenizer and template.
        references: Conversations whose last turn is supervised, from templates whose turns end
            differently from one conversation to the next.
    """
    settings: Any = getattr(model, "generation_config", None)
    found = [encoder.tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)]
    stop = set(encoder.end_of_turn_ids)
    for ids in found:
        stop.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    for reference in references:
        last = max(i for i, supervised in enumerate(reference.supervised) if supervised)
        if encoder.is_mark(reference.input_ids[last]):
            stop.add(reference.input_ids[last])
    return sorted(map(int, stop))


def ending_texts(model: PreTrainedModel) -> tuple[str, ...]:
    """Texts that end an answer: ``stop_strings`` of the model's generation settings."""
    found = getattr(getattr(model, "generation_config", None), "stop_strings", None) or ()
    return (found,) if isinstance(found, str) else tuple(found)


class AnswerReader:
    """Reads the answer from generated tokens.

    The text is never tidied up: some tokenizers ask for spaces before punctuation to be removed
    (``clean_up_tokenization_spaces``), and ``x = a . b`` would become another program.

    Args:
        tokenizer: Of the model.
        endings: Texts that end an answer; not part of it.

    Attributes:
        tokenizer: Of the model.
        endings: Texts that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, endings: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.endings = [text for text in endings if text]
        marks = {mark for pair in DRAFT_MARKS for mark in pair}
        self._dropped = {
            int(position)
            for position, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content not in marks
        }
        # A character has at most four bytes, and a token at least one; some tokens are no text.
        self._tail = 4 * max(map(len, self.endings), default=0) + 8

    def is_ended(self, ids: Sequence[int]) -> bool:
        """Whether the last of some tokens complete a text that ends the answer."""
        tail = self._decode(ids[-self._tail :])
        return any(ending in tail for ending in self.endings)

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The answer without drafts, and whether a text has ended it.

        Args:
            ids: All generated tokens without the token that ended them.
        """
        text = self._decode(ids)
        ends = [found for ending in self.endings if (found := text.find(ending)) >= 0]
        return without_drafts(text[: min(ends, default=len(text))]), bool(ends)

    def _decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self._dropped]
        return str(
            self.tokenizer.decode(
                kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
