"""A model's chat template: rendering conversations, and finding again what the assistant says.

A template writes each message between fixed texts (a *gap* before the first message, between two
messages, and after the last one). The gaps depend on the roles alone, so they are learned once
for each sequence of roles, by rendering placeholders; a conversation is then taken apart by
matching gaps and messages in turn. That finds a message exactly, even if its words occur elsewhere
too. Templates that look into a message (some drop earlier reasoning) are handled turn by turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from epi_bench.errors import UserError
from epi_bench.model.chat.assistant_turn import AssistantTurn
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a template writes around the messages of one sequence of roles.

    Attributes:
        gaps: The fixed texts; one more than there are messages.
        prompted: For each message, how many characters of the gap before it the generation prompt
            covers already.
        closing: For each message, how many characters of the gap after it close the turn, up to
            the end-of-turn token.
        closed: For each message, whether there is such a token.
    """

    gaps: tuple[str, ...]
    prompted: tuple[int, ...]
    closing: tuple[int, ...]
    closed: tuple[bool, ...]


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
        self._closing_tokens = _vocabulary_beyond_words(tokenizer)
        self._shapes: dict[tuple[str, ...], _Shape | None] = {}
        self._prompt_ends: dict[tuple[str, ...], tuple[int, str]] = {}
        self._takes_system: bool | None = None

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
                self._mend_prompt(text, _roles(messages))
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
        shape = self._shape(_roles(prepared))
        turns = None if shape is None else _match(shape, prepared, text)
        return self._search(shape, prepared, text) if turns is None else turns

    def closings(self) -> set[str]:
        """What ends an assistant's turn, where a token of its own does."""
        found = set()
        for roles in (("user", "assistant"), ("user", "assistant") * 2):
            shape = self._shape(roles)
            for position in range(1, len(roles), 2):
                if shape and shape.closed[position]:
                    found.add(shape.gaps[position + 1][: shape.closing[position]])
        return found

    def text_before(self, messages: Sequence[Message]) -> str:
        """What is written before the first of ``messages``; empty if that is not known."""
        shape = self._shape(_roles(self.prepare(messages)))
        return shape.gaps[0] if shape else ""

    def _apply(self, conversations: list[list[Message]], generation_prompt: bool) -> list[str]:
        if not conversations:
            return []
        texts = self._tokenizer.apply_chat_template(
            cast(Any, conversations),
            chat_template=self._source,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **self.arguments,
        )
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
            self._takes_system = self._placeholder_gaps(("system", "user"), False) is not None
        return self._takes_system

    def _placeholder_gaps(self, roles: Sequence[str], generation_prompt: bool) -> list[str] | None:
        """The texts around placeholders; ``None`` if one is not written once and in its place."""
        from jinja2.exceptions import TemplateError

        names = [f"\ue000{position}\ue001" for position in range(len(roles))]
        messages: list[Message] = [
            {"role": role, "content": name} for role, name in zip(roles, names, strict=True)
        ]
        try:
            rest = self._apply([messages], generation_prompt)[0]
        except TemplateError:
            return None
        gaps = []
        for name in names:
            gap, found, rest = rest.partition(name)
            if not found or "\ue000" in gap:
                return None
            gaps.append(gap)
        return None if "\ue000" in rest else [*gaps, rest]

    def _shape(self, roles: tuple[str, ...]) -> _Shape | None:
        if roles not in self._shapes:
            self._shapes[roles] = self._learn_shape(roles)
        return self._shapes[roles]

    def _learn_shape(self, roles: tuple[str, ...]) -> _Shape | None:
        gaps = self._placeholder_gaps(roles, False)
        if gaps is None:
            return None
        prompted, closing, closed = [0] * len(roles), [0] * len(roles), [False] * len(roles)
        for position, role in enumerate(roles):
            if role != "assistant":
                continue
            prompted[position] = self._prompted(roles[:position], gaps[position])
            last = self._placeholder_gaps(roles[: position + 1], False)
            after = gaps[position + 1]
            closing[position], closed[position] = self._close(
                after,
                last[-1] if last else after,
                after if position + 1 < len(roles) else self._followed_gap(roles),
            )
        return _Shape(tuple(gaps), tuple(prompted), tuple(closing), tuple(closed))

    def _prompted(self, roles: tuple[str, ...], before: str) -> int:
        """How much of the text before an assistant's message the generation prompt covers."""
        prompt = self._placeholder_gaps(roles, True)
        bare = self._placeholder_gaps(roles, False)
        if prompt is None or bare is None:
            return len(before)
        covered = len(_common_prefix(before, self._mend_prompt(prompt[-1], roles)))
        closed = len(_common_prefix(bare[-1], prompt[-1]))
        return covered if covered >= closed else len(before)

    def _mend_prompt(self, text: str, roles: tuple[str, ...]) -> str:
        """``text``, a prompt for these roles, with the end that a training conversation has."""
        if roles not in self._prompt_ends:
            self._prompt_ends[roles] = self._find_prompt_end(roles)
        surplus, missing = self._prompt_ends[roles]
        return text[: len(text) - surplus] + missing

    def _find_prompt_end(self, roles: tuple[str, ...]) -> tuple[int, str]:
        """How much the template's generation prompt says too much, and what it leaves out."""
        prompt, bare = (self._placeholder_gaps(roles, asked) for asked in (True, False))
        answered = self._placeholder_gaps((*roles, "assistant"), False)
        if prompt is None or bare is None or answered is None:
            return 0, ""
        before = answered[len(roles)]
        common = len(_common_prefix(before, prompt[-1]))
        if common < len(_common_prefix(bare[-1], prompt[-1])):
            return 0, ""  # the template closes the last user turn in its own way
        missing = before[common:] if prompt == bare else ""
        # A mere blank belongs to the answer's first token.
        return len(prompt[-1]) - common, missing if missing.strip() else ""

    def _followed_gap(self, roles: tuple[str, ...]) -> str:
        """The text after the last message where the user speaks next; empty if not known."""
        gaps = self._placeholder_gaps((*roles, "user"), False)
        return gaps[-2] if gaps else ""

    def _close(self, after: str, last: str, followed: str) -> tuple[int, bool]:
        """How much of the text after a message closes its turn, and whether a token ends it.

        A turn may close with several tokens in a row (``<|END_RESPONSE|><|END_OF_TURN_TOKEN|>``);
        those that the next turn opens with are not among them.

        Args:
            after: The text after the message, with the beginning of the next turn if there is one.
            last: The text after it where it is the last message.
            followed: The text after it where the user speaks next; empty if that is not known.
        """
        token, last_token = self._first_token(after), self._first_token(last)
        if token and last_token and after[: token[0]] == last[: last_token[0]]:
            end = token[1]
            common = len(_common_prefix(followed, last))
            while (
                (more := self._first_token(last[end:])) and more[0] == 0 and end + more[1] <= common
            ):
                end += more[1]
            return end, True
        common = len(_common_prefix(after, last))
        return (min(common, token[0]) if token else common), False

    def _first_token(self, text: str) -> tuple[int, int] | None:
        """Begin and end of the first token in ``text`` that is no word; ``None`` without one."""
        found = [(text.find(token), -len(token)) for token in self._closing_tokens if token in text]
        if not found:
            return None
        start, length = min(found)
        return start, start - length

    def _search(
        self, shape: _Shape | None, messages: list[Message], text: str
    ) -> list[AssistantTurn]:
        """Find each turn by itself, for templates that look into the messages."""
        turns: list[AssistantTurn] = []
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            cursor = turns[-1].end if turns else 0
            turn = self._continuation(shape, messages[: position + 1], text) or self._occurrence(
                shape, message["content"], position, text, cursor
            )
            if turn is None:
                raise UserError(
                    "the model's chat template changes the assistant's words, so the supervised "
                    f"part cannot be found; the message begins {message['content'][:40]!r}"
                )
            turns.append(turn)
        return turns

    def _continuation(
        self, shape: _Shape | None, messages: list[Message], text: str
    ) -> AssistantTurn | None:
        """The turn, if the conversation up to it is the beginning of ``text``."""
        before = self.render(messages[:-1], generation_prompt=True)
        after = self.render(messages)
        if not (text.startswith(after) and after.startswith(before)) or len(after) <= len(before):
            return None
        last = self._placeholder_gaps(_roles(messages), False)
        gap = last[-1] if last and after.endswith(last[-1]) else ""
        content_end = len(after) - len(gap)
        if content_end < len(before):
            return None
        length, closed = self._close(gap, gap, self._followed_gap(_roles(messages)))
        return AssistantTurn(len(before), content_end, content_end + length, closed)

    def _occurrence(
        self, shape: _Shape | None, content: str, position: int, text: str, cursor: int
    ) -> AssistantTurn | None:
        """The turn, if its words are found after ``cursor`` between what goes around them."""
        opening = shape.gaps[position] if shape else ""
        closing = shape.gaps[position + 1][: shape.closing[position]] if shape else ""
        for before in dict.fromkeys([opening, opening.lstrip(), ""]):
            for words in _renderings(content):
                found = text.find(before + words + closing, cursor) if before or words else -1
                if found >= 0:
                    start = found + len(before)
                    end = start + len(words)
                    closed = bool(shape and shape.closed[position])
                    return AssistantTurn(start, end, end + len(closing), closed)
        return None


def _match(shape: _Shape, messages: Sequence[Message], text: str) -> list[AssistantTurn] | None:
    """Take ``text`` apart into gaps and messages; ``None`` if it is not made of them."""
    turns = []
    cursor = len(shape.gaps[0])
    if not text.startswith(shape.gaps[0]):
        return None
    for position, message in enumerate(messages):
        after = shape.gaps[position + 1]
        for words in _renderings(message["content"]):
            end = cursor + len(words)
            if text.startswith(words, cursor) and text.startswith(after, end):
                break
        else:
            return None
        if message["role"] == "assistant":
            opening = shape.gaps[position][: shape.prompted[position]]
            start = cursor - len(shape.gaps[position]) + len(opening)
            close = end + shape.closing[position]
            turns.append(AssistantTurn(start, end, close, shape.closed[position], opening))
        cursor = end + len(after)
    return turns if cursor == len(text) else None


def _renderings(content: str) -> Iterator[str]:
    """The forms in which templates write a message: as it is, trimmed, without its reasoning."""
    yield content
    yield content.strip()
    yield content.lstrip()
    yield content.rstrip()
    yield content.lstrip("\n")
    if "</think>" in content:
        answer = content.rpartition("</think>")[2]
        yield answer
        yield answer.strip()
        yield answer.lstrip("\n")


def _roles(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message["role"] for message in messages)


def _common_prefix(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    length = next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[:length]


def _vocabulary_beyond_words(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that are one token wherever they stand: special and added tokens, no mere blanks."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found = dict.fromkeys([*added, *tokenizer.all_special_tokens])
    return tuple(token for token in found if token.strip())


def _default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    if "<|im_end|>" in _vocabulary_beyond_words(tokenizer) or not tokenizer.eos_token:
        return DEFAULT_CHAT_TEMPLATE
    return DEFAULT_CHAT_TEMPLATE.replace("'<|im_end|>'", "eos_token")
