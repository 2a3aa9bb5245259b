"""Texts on which a strategy measures the base model, in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.bridges.strategy_run import refuse
from epi_bench.errors import UserError
from epi_bench.model.base_examples import BaseExamples, check_base_text
from epi_bench.model.base_text import GENERAL, LONGEST_WINDOW, NONE, text_file
from epi_bench.model.text_file import read_text_file
from epi_bench.plugins.options import options_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.strategy import Strategy

GeneralText = str | Path | Sequence[str]
"""The path of a UTF-8 text file, or texts."""


@dataclass(frozen=True)
class TextsOfTheLoop:
    """What a training loop gives of text, as its user gave it.

    Attributes:
        tokenizer: Of the model, or a processor that holds one; ``None`` if there is none.
        general_text: What the base model can do already, by example; ``None`` if not given.
        max_length: Longest text that is trained, in tokens; ``None`` if that is not known.
        remedy: How a tokenizer is given, for messages.
    """

    tokenizer: Any
    general_text: GeneralText | None
    max_length: int | None
    remedy: str


class StrategyTexts:
    """Gives a strategy the examples that it asks for by ``context.base_experience``.

    Args:
        strategy: With its options set.
        given: By the loop.

    Raises:
        UserError: If the strategy is set to protect the base model and what it needs for that is
            missing, or a general text is given that it does not read.
    """

    def __init__(self, strategy: Strategy, given: TextsOfTheLoop) -> None:
        self._strategy = strategy
        self._given = given
        self._texts = None if given.general_text is None else _texts(given.general_text)
        source = strategy.protect_base
        if source != NONE:
            check_base_text(source, self._tokenizer())
        if source == GENERAL:
            self._general_texts()
        elif self._texts is not None and "protect_base" in options_of(type(strategy)):
            raise refuse(
                strategy,
                f"does not read general_text with protect_base={source!r}",
                f"set protect_base={GENERAL!r}, or leave general_text out",
            )

    def __call__(
        self, model: nn.Module, source: str, count: int, generator: torch.Generator
    ) -> list[EncodedExample]:
        """As :class:`epi_bench.model.base_examples.BaseExamples`."""
        length = self._given.max_length or LONGEST_WINDOW
        examples = BaseExamples(self._tokenizer(), self._general_texts, length)
        return examples(model, source, count, generator)

    def _tokenizer(self) -> Any:
        given = self._given.tokenizer
        tokenizer = getattr(given, "tokenizer", given)
        if not hasattr(tokenizer, "all_special_ids"):
            raise refuse(
                self._strategy, "reads text, which needs the tokenizer", self._given.remedy
            )
        return tokenizer

    def _general_texts(self) -> Sequence[str]:
        if self._texts is None:
            raise refuse(
                self._strategy,
                "measures the base model on general text, and none is given",
                "give general_text=FILE or a list of texts, or protect_base='self', for which the "
                "model writes the text itself",
            )
        return self._texts


def longest_text(model: nn.Module) -> int | None:
    """The longest text that a model can read, in tokens; ``None`` where it does not say."""
    config: Any = getattr(model, "config", None)
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    length = getattr(inner, "max_position_embeddings", None)
    return int(length) if length else None


def _texts(given: GeneralText) -> list[str]:
    """The texts themselves."""
    if isinstance(given, str | Path):
        path = text_file(given)
        if path is None:
            raise UserError(
                f"general_text={str(given)[:60]!r} is no text file: give the path of one, or a "
                "list of texts"
            )
        return list(read_text_file(path).texts)
    texts = list(given)
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise UserError(f"general_text holds a {type(wrong[0]).__name__}: give a list of texts")
    if not any(text.strip() for text in texts):
        raise UserError("general_text has no text in it: give some, or the path of a text file")
    return [text for text in texts if text.strip()]
