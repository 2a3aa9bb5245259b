r"""What a chat template writes around the messages, learned by rendering placeholders.

A template writes fixed texts, the *gaps*, before the first message, between two messages, and after
the last one. They depend on the roles alone, so they are learned once for each sequence of roles.
For user and assistant, ChatML writes (line breaks as ``\n``)::

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n
    [---- gap 0 -----]  [------------- gap 1 -------------]      [- gap 2 --]
                        [------------ opening ------------]      [closing-]
                                    [- generation prompt -][- supervised -]

- *shape*: the gaps of one sequence of roles, and for each assistant message its two edges;
- *generation prompt*: what the template ends with where the assistant shall speak next;
- *opening*: the part of the gap before an answer that the model reads; mostly all of it, but the
  space that Mistral's template writes before an answer is the model's to write;
- *closing*: the part of the gap after an answer that ends the turn, up to its end-of-turn token;
- *supervised*: the answer and its closing, which the model learns to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.model.chat.assistant_turn import AssistantTurn, written_forms
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Roles = tuple[str, ...]

Apply = Callable[[list[Message], bool], str]
"""Renders messages, with the template's own generation prompt if that is asked for."""


@dataclass(frozen=True, slots=True)
class TurnEdges:
    """What stands around an assistant's words.

    Attributes:
        opening: The part of the gap before them that the generation prompt covers.
        closing: The part of the gap after them that ends the turn.
        has_end_token: Whether ``closing`` ends with an end-of-turn token.
    """

    opening: str
    closing: str
    has_end_token: bool


@dataclass(frozen=True, slots=True)
class TemplateShape:
    """What a template writes around the messages of one sequence of roles.

    Attributes:
        gaps: The fixed texts; one more than there are messages.
        edges: For each message of the assistant the edges of its turn; ``None`` for the others.
    """

    gaps: tuple[str, ...]
    edges: tuple[TurnEdges | None, ...]

    def match(self, messages: Sequence[Message], text: str) -> list[AssistantTurn] | None:
        """Take a rendered conversation apart into gaps and messages.

        That finds a message exactly, even if its words occur elsewhere too.

        Args:
            messages: With the roles of this shape.
            text: As the template writes them.

        Returns:
            The assistant's turns; ``None`` if the text is not made of these gaps and messages.
        """
        if not text.startswith(self.gaps[0]):
            return None
        turns = []
        cursor = len(self.gaps[0])
        for position, (message, edges) in enumerate(zip(messages, self.edges, strict=True)):
            after = self.gaps[position + 1]
            for words in written_forms(message["content"]):
                end = cursor + len(words)
                if text.startswith(words, cursor) and text.startswith(after, end):
                    break
            else:
                return None
            if edges is not None:
                start = cursor - len(self.gaps[position]) + len(edges.opening)
                close = end + len(edges.closing)
                turns.append(AssistantTurn(start, end, close, edges.has_end_token, edges.opening))
            cursor = end + len(after)
        return turns if cursor == len(text) else None


class ShapeLearner:
    """Learns the shapes of one template.

    Args:
        apply: Renders messages with the template as it is.
        special_texts: Texts that are one token wherever they stand (:func:`special_texts`).
    """

    def __init__(self, apply: Apply, special_texts: Sequence[str]) -> None:
        self._apply = apply
        self._special_texts = special_texts
        self._shapes: dict[Roles, TemplateShape | None] = {}
        self._prompt_ends: dict[Roles, tuple[int, str]] = {}

    def shape(self, roles: Roles) -> TemplateShape | None:
        """The shape for these roles; ``None`` if the template refuses, drops or moves a message."""
        if roles not in self._shapes:
            self._shapes[roles] = self._learn(roles)
        return self._shapes[roles]

    def gaps(self, roles: Sequence[str], generation_prompt: bool) -> list[str] | None:
        """The texts around placeholders; ``None`` if one is not written once and in its place."""
        from jinja2.exceptions import TemplateError

        names = [f"\ue000{position}\ue001" for position in range(len(roles))]
        messages: list[Message] = [
            {"role": role, "content": name} for role, name in zip(roles, names, strict=True)
        ]
        try:
            rest = self._apply(messages, generation_prompt)
        except TemplateError:
            return None
        gaps = []
        for name in names:
            gap, found, rest = rest.partition(name)
            if not found or "\ue000" in gap:
                return None
            gaps.append(gap)
        return None if "\ue000" in rest else [*gaps, rest]

    def fix_prompt_end(self, text: str, roles: Roles) -> str:
        """Make the end of a prompt equal to the text before an answer in a training conversation.

        Args:
            text: Messages of these roles with the template's own generation prompt.
            roles: Of the messages.
        """
        if roles not in self._prompt_ends:
            self._prompt_ends[roles] = self._find_prompt_end(roles)
        surplus, missing = self._prompt_ends[roles]
        return text[: len(text) - surplus] + missing

    def gap_before_user(self, roles: Roles) -> str:
        """The text after the last message where the user speaks next; empty if not known."""
        gaps = self.gaps((*roles, "user"), False)
        return gaps[-2] if gaps else ""

    def closing(self, after: str, after_last: str, before_user: str) -> tuple[str, bool]:
        """The part of the text after a message that closes its turn, and whether a token ends it.

        A turn may close with several tokens in a row (``<|END_RESPONSE|><|END_OF_TURN_TOKEN|>``);
        those that the next turn opens with are not among them.

        Args:
            after: The text after the message, with the beginning of the next turn if there is one.
            after_last: The text after it where it is the last message.
            before_user: The text after it where the user speaks next; empty if that is not known.
        """
        token, last_token = self._first_token(after), self._first_token(after_last)
        if token and last_token and after[: token[0]] == after_last[: last_token[0]]:
            end = token[1]
            common = _common_length(before_user, after_last)
            while (more := self._first_token(after_last[end:])) and more[0] == 0:
                if end + more[1] > common:
                    break
                end += more[1]
            return after[:end], True
        common = _common_length(after, after_last)
        return after[: min(common, token[0]) if token else common], False

    def _learn(self, roles: Roles) -> TemplateShape | None:
        gaps = self.gaps(roles, False)
        if gaps is None:
            return None
        edges = [
            self._edges(roles, gaps, position) if role == "assistant" else None
            for position, role in enumerate(roles)
        ]
        return TemplateShape(tuple(gaps), tuple(edges))

    def _edges(self, roles: Roles, gaps: Sequence[str], position: int) -> TurnEdges:
        before, after = gaps[position], gaps[position + 1]
        last = self.gaps(roles[: position + 1], False)
        is_last = position + 1 == len(roles)
        closing, has_end_token = self.closing(
            after, last[-1] if last else after, self.gap_before_user(roles) if is_last else after
        )
        return TurnEdges(self._opening(roles[:position], before), closing, has_end_token)

    def _opening(self, roles: Roles, before: str) -> str:
        """The part of the text before an answer that the generation prompt covers."""
        prompt = self.gaps(roles, True)
        unprompted = self.gaps(roles, False)
        if prompt is None or unprompted is None:
            return before
        covered = _common_length(before, self.fix_prompt_end(prompt[-1], roles))
        closed = _common_length(unprompted[-1], prompt[-1])
        return before[:covered] if covered >= closed else before

    def _find_prompt_end(self, roles: Roles) -> tuple[int, str]:
        """Characters to cut from the generation prompt, and text to append, so that it equals what
        precedes an answer in training.
        """
        prompt, unprompted = (self.gaps(roles, asked) for asked in (True, False))
        answered = self.gaps((*roles, "assistant"), False)
        if prompt is None or unprompted is None or answered is None:
            return 0, ""
        before = answered[len(roles)]
        common = _common_length(before, prompt[-1])
        if common < _common_length(unprompted[-1], prompt[-1]):
            return 0, ""  # the template closes the last user turn in its own way
        missing = before[common:] if prompt == unprompted else ""
        # Spaces alone belong to the answer's first token.
        return len(prompt[-1]) - common, missing if missing.strip() else ""

    def _first_token(self, text: str) -> tuple[int, int] | None:
        """Start and end of the first special or added token in ``text``."""
        found = [(text.find(token), -len(token)) for token in self._special_texts if token in text]
        if not found:
            return None
        start, length = min(found)
        return start, start - length


def special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that the tokenizer always encodes as one token: its special and added tokens.

    Added tokens of white space alone are not among them.
    """
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found = dict.fromkeys([*added, *tokenizer.all_special_tokens])
    return tuple(token for token in found if token.strip())


def _common_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
