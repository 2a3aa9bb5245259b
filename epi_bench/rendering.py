"""Conversations as text, with what the template writes told from what the messages say.

A message is data: a control token's text in it stays text (see :mod:`epi_bench.control_tokens`),
whatever the template writes around it. One thing is left to the template: where an assistant's
message begins with a draft (``<think>...</think>``) and the template takes such messages apart,
the draft's marks are those that the template writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.chat_template import AssistantTurn, ChatTemplate
from epi_bench.control_tokens import ControlTokens, Disguise
from epi_bench.task import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenRanges = Sequence[tuple[int, int]]

_DRAFT_MARKS = re.compile(r"(\s*<think>)(.*?)(</think>)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: As the model reads it.
        turns: Where the assistant speaks in it; empty for a prompt.
        before: What the template writes before the first message; empty if that is not known.
        named: The text with the template's control tokens named, and what knows the names;
            ``None`` where no message holds a control token.
    """

    text: str
    turns: Sequence[AssistantTurn]
    before: str
    named: tuple[str, Disguise] | None

    @property
    def for_tokens(self) -> str:
        """The text that is tokenised; character positions are those of :attr:`text`."""
        return self.named[0] if self.named else self.text


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

    def prompt(self, messages: Sequence[Message]) -> Rendered:
        """Messages followed by the generation prompt."""
        return self._render_all([messages], generation_prompt=True)[0]

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered]:
        """Whole conversations, with the places where the assistant speaks.

        Raises:
            UserError: If the template refuses one, or changes the assistant's words beyond
                recognition.
        """
        return self._render_all(conversations, generation_prompt=False)

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

    def _render_all(
        self, conversations: Sequence[Sequence[Message]], generation_prompt: bool
    ) -> list[Rendered]:
        prepared = [self._template.prepare(messages) for messages in conversations]
        texts = self._template.render_all(prepared, generation_prompt)
        return [
            self._render_with_control_tokens(messages, text, generation_prompt)
            if any(self.control_tokens.are_in(message["content"]) for message in messages)
            else self._rendered(messages, text, generation_prompt)
            for messages, text in zip(prepared, texts, strict=True)
        ]

    def _rendered(
        self,
        messages: Sequence[Message],
        text: str,
        generation_prompt: bool,
        disguise: Disguise | None = None,
    ) -> Rendered:
        turns = [] if generation_prompt else self._template.assistant_turns(messages, text)
        before = self._template.text_before(messages)
        if disguise is None:
            return Rendered(text, turns, before, None)
        return Rendered(disguise.show(text), turns, before, (disguise.name_marks(text), disguise))

    def _render_with_control_tokens(
        self, messages: Sequence[Message], text: str, generation_prompt: bool
    ) -> Rendered:
        """A conversation whose data holds control tokens.

        Args:
            messages: The conversation.
            text: As the template writes it if nothing is hidden from it.
            generation_prompt: Whether the generation prompt follows.
        """
        disguise = self.control_tokens.disguise([m["content"] for m in messages])
        hidden = [_with_content(m, disguise.hide(m["content"])) for m in messages]
        rendered = self._template.render(hidden, generation_prompt)
        if disguise.show(rendered) != text:  # the template looks for marks in messages
            drafts = [_with_content(m, _hide_after_draft(m, disguise)) for m in messages]
            with_drafts = self._template.render(drafts, generation_prompt)
            if disguise.show(with_drafts) == text:
                hidden, rendered = drafts, with_drafts
        return self._rendered(hidden, rendered, generation_prompt, disguise)


def _hide_after_draft(message: Message, disguise: Disguise) -> str:
    """The message's data, all hidden but the marks around a draft that it begins with."""
    content = message["content"]
    found = _DRAFT_MARKS.match(content)
    if message["role"] != "assistant" or found is None:
        return disguise.hide(content)
    opening, draft, closing = found.groups()
    return opening + disguise.hide(draft) + closing + disguise.hide(content[found.end() :])


def _with_content(message: Message, content: str) -> Message:
    return {"role": message["role"], "content": content}
