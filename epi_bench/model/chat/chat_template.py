"""A model's chat template: conversations as text, and where the assistant speaks in them.

Rendering is here; what a template writes around the messages is learned in
:mod:`epi_bench.model.chat.template_shape`, which has a picture of it, and templates that look into
a message are handled in :mod:`epi_bench.model.chat.turn_search`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from epi_bench.errors import UserError, describe_error
from epi_bench.model.chat.assistant_turn import AssistantTurn
from epi_bench.model.chat.template_limits import limited_template
from epi_bench.model.chat.template_shape import ShapeLearner, special_texts
from epi_bench.model.chat.turn_search import TurnSearch
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML; used, and recorded as such, for tokenizers that bring no chat template. Where the
tokenizer has no ``<|im_end|>`` token, its end-of-sequence token ends a turn instead."""


FIXED_DATE = "26 Jul 2024"
"""What templates that write today's date are given, so that a run is the same tomorrow."""


_FIXED_CLOCK = (
    "{% macro strftime_now(format) %}"
    "{% if format == '%Y-%m-%d' %}2024-07-26{% else %}" + FIXED_DATE + "{% endif %}"
    "{% endmacro %}\n"
)


class ChatTemplate:
    """The chat template of a tokenizer.

    Templates that refuse or leave out a system message (Gemma's do) get it as the beginning of
    the first user message, followed by an empty line.

    The generation prompt is always the text before the answer of a training conversation. Where
    a template has none, though it names the assistant, it is the text that names it; where it
    says more than stands before an answer (DeepSeek-R1's opens a thought), the rest is left out.

    Args:
        tokenizer: One without a template of its own is given :data:`DEFAULT_CHAT_TEMPLATE`.
        arguments: Variables for the template. Thinking is off (``enable_thinking=False``) unless
            they turn it on: the tasks' answers hold no reasoning.

    Attributes:
        text: The template's source.
        is_default: Whether the tokenizer brought none.
        arguments: All variables that the template is given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None
    ) -> None:
        self.is_default = not tokenizer.chat_template
        self.text: str = tokenizer.chat_template or _default_template(tokenizer)
        self._source = _FIXED_CLOCK + self.text if "strftime_now" in self.text else self.text
        self._tokenizer = tokenizer
        self.arguments: dict[str, Any] = {
            "enable_thinking": False,
            "date_string": FIXED_DATE,
            **(arguments or {}),
        }
        self._takes_system: bool | None = None
        self._shapes = ShapeLearner(
            lambda messages, prompt: self._apply([messages], prompt)[0], special_texts(tokenizer)
        )
        self._search = TurnSearch(self.render, self._shapes)

    def render_all(
        self, conversations: Sequence[Sequence[Message]], generation_prompt: bool = False
    ) -> list[str]:
        """The conversations as the model reads them.

        Raises:
            UserError: If the template refuses one; its roles are named.
        """
        from jinja2.exceptions import TemplateError

        prepared = [self.prepare(messages) for messages in conversations]
        try:
            texts = self._apply(prepared, generation_prompt)
        except TemplateError as error:
            raise self._refusal(prepared, generation_prompt) or error from error
        if generation_prompt:
            return [
                self._shapes.fix_prompt_end(text, _roles(messages))
                for text, messages in zip(texts, prepared, strict=True)
            ]
        return texts

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """One conversation; see :meth:`render_all`."""
        return self.render_all([messages], generation_prompt)[0]

    def prepare(self, messages: Sequence[Message]) -> list[Message]:
        """Plain dictionaries, with the system message folded in where the template has no place."""
        plain: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
        if _roles(plain)[:2] != ("system", "user") or self._accepts_system():
            return plain
        first: Message = {
            "role": "user",
            "content": f"{plain[0]['content']}\n\n{plain[1]['content']}",
        }
        return [first, *plain[2:]]

    def assistant_turns(self, messages: Sequence[Message], text: str) -> list[AssistantTurn]:
        """Where the assistant speaks in ``text``, the rendered ``messages``.

        Raises:
            UserError: If the template changes the assistant's words beyond recognition.
        """
        prepared = self.prepare(messages)
        shape = self._shapes.shape(_roles(prepared))
        turns = None if shape is None else shape.match(prepared, text)
        return self._search.find(shape, prepared, text) if turns is None else turns

    def closings(self) -> set[str]:
        """What ends an assistant's turn, where a token of its own does."""
        shapes = [self._shapes.shape(("user", "assistant") * turns) for turns in (1, 2)]
        edges = [edges for shape in shapes if shape for edges in shape.edges]
        return {found.closing for found in edges if found and found.has_end_token}

    def text_before(self, messages: Sequence[Message]) -> str:
        """What is written before the first of ``messages``; empty if that is not known."""
        shape = self._shapes.shape(_roles(self.prepare(messages)))
        return shape.gaps[0] if shape else ""

    def _apply(self, conversations: list[list[Message]], generation_prompt: bool) -> list[str]:
        if not conversations:
            return []
        from jinja2.exceptions import TemplateError

        try:
            texts = self._tokenizer.apply_chat_template(
                cast(Any, conversations),
                chat_template=limited_template(self._source),
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **self.arguments,
            )
        except TemplateError:
            raise
        except Exception as error:  # a template's sums and lookups may fail in any way
            raise TemplateError(describe_error(error)) from error
        return list(texts)

    def _refusal(
        self, conversations: list[list[Message]], generation_prompt: bool
    ) -> UserError | None:
        from jinja2.exceptions import TemplateError

        for messages in conversations:
            try:
                self._apply([messages], generation_prompt)
            except TemplateError as error:
                return UserError(
                    "the model's chat template refuses a conversation with the roles "
                    f"{', '.join(_roles(messages))}: {error}"
                )
        return None

    def _accepts_system(self) -> bool:
        """Whether a system message is neither refused nor left out."""
        if self._takes_system is None:
            self._takes_system = self._shapes.gaps(("system", "user"), False) is not None
        return self._takes_system


def _roles(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message["role"] for message in messages)


def _default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    if "<|im_end|>" in special_texts(tokenizer) or not tokenizer.eos_token:
        return DEFAULT_CHAT_TEMPLATE
    return DEFAULT_CHAT_TEMPLATE.replace("'<|im_end|>'", "eos_token")
