"""Conversations as text that keeps apart what the template writes and what the messages say.

A message is data: a control token's text in it stays text (see
:mod:`epi_bench.model.chat.control_tokens`), whatever the template writes around it. One thing is
left to the template: where an assistant's message begins with a draft (``<think>...</think>``) and
the template takes such messages apart, the draft's marks are those that the template writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.model.chat.assistant_turn import AssistantTurn
from epi_bench.model.chat.chat_template import ChatTemplate
from epi_bench.model.chat.control_tokens import ControlTokens, Disguise
from epi_bench.model.chat.drafts import DRAFT_MARKS
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenRanges = Sequence[tuple[int, int]]

_DRAFTS = [
    re.compile(rf"(\s*{re.escape(opening)})(.*?)({re.escape(closing)})", re.DOTALL)
    for opening, closing in DRAFT_MARKS
]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: As the model reads it.
        turns: Where the assistant speaks in it.
        before: What the template writes before the first message; empty if that is not known.
        named: The text with private names for the template's control tokens, and what knows the
            names; ``None`` where no message holds a control token.
    """

    text: str
    turns: Sequence[AssistantTurn]
    before: str
    named: tuple[str, Disguise] | None

    @property
    def for_tokens(self) -> str:
        """The text that is tokenised; character positions are those of :attr:`text`."""
        return self.named[0] if self.named else self.text


@dataclass(frozen=True, slots=True)
class _HiddenData:
    """A conversation whose messages hold no control token that a template or tokenizer could find.

    Attributes:
        messages: With private characters where they hold control tokens.
        text: As the template writes them.
        disguise: Knows the private characters; ``None`` where no message holds a control token.
    """

    messages: list[Message]
    text: str
    disguise: Disguise | None

    @property
    def shown(self) -> str:
        """The text as the model reads it."""
        return self.disguise.show(self.text) if self.disguise else self.text


class Renderer:
    """Renders conversations with a chat template and tokenises them.

    Args:
        tokenizer: A fast tokenizer.
        template: Its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.control_tokens = ControlTokens(tokenizer)

    def text(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        """A conversation as the model reads it.

        Raises:
            UserError: If the template refuses it.
        """
        prepared = self._template.prepare(messages)
        text = self._template.render(prepared, generation_prompt)
        return self._hide_data(prepared, text, generation_prompt).shown

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered]:
        """Whole conversations, with the places where the assistant speaks.

        Raises:
            UserError: If the template refuses one, or changes the assistant's words beyond
                recognition.
        """
        prepared = [self._template.prepare(messages) for messages in conversations]
        texts = self._template.render_all(prepared)
        found = []
        for messages, text in zip(prepared, texts, strict=True):
            hidden = self._hide_data(messages, text, generation_prompt=False)
            turns = self._template.assistant_turns(hidden.messages, hidden.text)
            disguise = hidden.disguise
            named = (disguise.name_marks(hidden.text), disguise) if disguise else None
            before = self._template.text_before(hidden.messages)
            found.append(Rendered(hidden.shown, turns, before, named))
        return found

    def tokenize(self, rendered: Sequence[Rendered]) -> list[tuple[list[int], TokenRanges]]:
        """Token ids and character ranges of each text."""
        plain = [one.text for one in rendered if one.named is None]
        tokens = (
            self._tokenizer(
                plain,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            if plain
            else {"input_ids": [], "offset_mapping": []}
        )
        found = zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        return [
            next(found) if one.named is None else one.named[1].tokenizer.encode(one.named[0])
            for one in rendered
        ]

    def part_tokenizer(self, rendered: Rendered) -> Callable[[str], list[int]]:
        """What tokenises a part of ``rendered.for_tokens``."""
        if rendered.named is not None:
            tokenizer = rendered.named[1].tokenizer
            return lambda part: tokenizer.encode(part)[0]
        return lambda part: list(
            self._tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        )

    def _hide_data(
        self, messages: list[Message], text: str, generation_prompt: bool
    ) -> _HiddenData:
        """The conversation with the control tokens in its messages hidden.

        Args:
            messages: The conversation.
            text: As the template writes it if nothing is hidden from it.
            generation_prompt: Whether the generation prompt follows.
        """
        if not any(self.control_tokens.are_in(message["content"]) for message in messages):
            return _HiddenData(messages, text, None)
        disguise = self.control_tokens.disguise([m["content"] for m in messages])
        hidden = [_with_content(m, disguise.hide(m["content"])) for m in messages]
        rendered = self._template.render(hidden, generation_prompt)
        if disguise.show(rendered) != text:  # the template looks for marks in messages
            drafts = [_with_content(m, _hide_after_draft(m, disguise)) for m in messages]
            with_drafts = self._template.render(drafts, generation_prompt)
            if disguise.show(with_drafts) == text:
                return _HiddenData(drafts, with_drafts, disguise)
        return _HiddenData(hidden, rendered, disguise)


def _hide_after_draft(message: Message, disguise: Disguise) -> str:
    """The message's data, all hidden but the marks around a draft that it begins with."""
    content = message["content"]
    found = next((match for draft in _DRAFTS if (match := draft.match(content))), None)
    if message["role"] != "assistant" or found is None:
        return disguise.hide(content)
    opening, draft, closing = found.groups()
    return opening + disguise.hide(draft) + closing + disguise.hide(content[found.end() :])


def _with_content(message: Message, content: str) -> Message:
    return {"role": message["role"], "content": content}
