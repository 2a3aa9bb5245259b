"""The examples on which a strategy measures the base model before the first step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.model.base_text import (
    LONGEST_WINDOW,
    OWN,
    read_base_text,
    text_windows,
    written_by,
)

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from epi_bench.model.chat.encoded_example import EncodedExample


class BaseExamples:
    """Examples of general texts, of the model's own text, or of a file.

    Args:
        tokenizer: Of the model.
        general_texts: Gives the general texts when they are asked for, none empty.
        max_length: Longest text that is trained, in tokens; examples are at most 128 long.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        general_texts: Callable[[], Sequence[str]],
        max_length: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._general_texts = general_texts
        self._window = min(max_length, LONGEST_WINDOW)

    def __call__(
        self, model: nn.Module, source: str, count: int, generator: torch.Generator
    ) -> list[EncodedExample]:
        """So many examples, or as many as there are.

        Args:
            model: Writes the text where the source is ``self``.
            source: ``general_text``, ``self``, or the path of a text file.
            count: At least 1.
            generator: Of every draw, on the CPU.

        Raises:
            UserError: If the text is too short, or the model ends every text of its own at once.
        """
        if source == OWN:
            found: Sequence[EncodedExample] = self._written(model, count, generator)
        else:
            found = self._windows(source)
        if not found:
            raise UserError(
                f"protect_base={source}: the text is a single token: give a longer one"
                if source != OWN
                else "protect_base=self: the model writes nothing: choose general_text or a file"
            )
        draws = random.Random(generator.initial_seed())
        return draws.sample(list(found), min(count, len(found)))

    def _windows(self, source: str) -> list[EncodedExample]:
        from epi_bench.model.chat.sequence_start import sequence_start
        from epi_bench.model.chat.text_tokens import text_token_ids

        given = read_base_text(source)
        texts = self._general_texts() if given is None else given[0]
        prefix = sequence_start(self._tokenizer)
        return [
            window
            for text in texts
            for window in text_windows(text_token_ids(self._tokenizer, text), prefix, self._window)
        ]

    def _written(
        self, model: nn.Module, count: int, generator: torch.Generator
    ) -> list[EncodedExample]:
        from epi_bench.model.chat.sequence_start import sequence_start

        tokenizer = self._tokenizer
        prefix = sequence_start(tokenizer)
        if prefix:
            starts = [list(prefix)] * count
        else:  # nothing marks a beginning: any token may
            special = set(tokenizer.all_special_ids)
            plain = [token for token in range(len(tokenizer)) if token not in special]
            draws = random.Random(generator.initial_seed())
            starts = [[draws.choice(plain)] for _ in range(count)]
        stop = {tokenizer.eos_token_id} - {None}
        return written_by(model, starts=starts, length=self._window, stop=stop, generator=generator)


def check_base_text(source: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Whether a strategy's text for the base can be used; called before anything is written.

    Args:
        source: ``none``, ``general_text``, ``self``, or the path of a text file.
        tokenizer: Of the model.

    Returns:
        SHA-256 of the file's text; ``None`` if the source is no file.

    Raises:
        UserError: If it cannot.
    """
    from epi_bench.model.chat.text_tokens import text_token_ids

    given = read_base_text(source)
    if given is None:
        return None
    texts, digest = given
    if all(len(text_token_ids(tokenizer, text)) < 2 for text in texts):
        raise UserError(f"{source} is a single token: write more text into it")
    return digest
