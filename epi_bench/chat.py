"""From conversations to token ids with a loss mask: only what the assistant says is supervised.

Every conversation is rendered once with the tokenizer's own chat template and tokenised whole, so
the tokens are those that ``tokenizer.apply_chat_template`` gives. The supervised part of an
assistant turn begins where the template's generation prompt ends and includes the end-of-turn
token, in every turn; where the template closes a turn with more than that token (a line break,
say), the rest is not supervised, because no generation ever has to produce it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.task import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML; used, and recorded as such, for tokenizers that bring no chat template."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A conversation as tokens.

    Attributes:
        input_ids: Token ids of the whole conversation.
        supervised: For each token, whether the model is trained to predict it.
    """

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised_tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(self.supervised)


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """What happened to a data set while it was encoded.

    Attributes:
        encoded: Examples that can be trained on.
        truncated: Examples among them that were cut to ``max_length``.
        unsupervised: Examples left out because truncation cut off everything supervised.
    """

    encoded: int
    truncated: int
    unsupervised: int


class ChatEncoder:
    """Encodes conversations for one tokenizer.

    Args:
        tokenizer: A fast tokenizer. One without a chat template is given
            :data:`DEFAULT_CHAT_TEMPLATE`.
        max_length: Longest conversation in tokens; longer ones lose their end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                "the tokenizer is a slow one: convert it to tokenizer.json (a fast tokenizer), "
                "character offsets are needed to find the assistant's tokens"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.uses_default_template = not tokenizer.chat_template
        self._template = tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The conversation as the model reads it, as text."""
        from jinja2.exceptions import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                _for_template(messages),
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except TemplateError as error:
            raise UserError(
                f"the model's chat template refuses a conversation with the roles "
                f"{[message['role'] for message in messages]}: {error}"
            ) from error
        return str(text)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of ``messages`` followed by the template's generation prompt."""
        return self._tokenize(self.render(messages, generation_prompt=True))

    def encode(self, messages: Sequence[Message]) -> EncodedExample:
        """Token ids and loss mask of one conversation, cut to ``max_length``."""
        return self.encode_all([messages])[0]

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[EncodedExample]:
        """Token ids and loss masks of many conversations, each cut to ``max_length``."""
        if not conversations:
            return []
        texts = [self.render(messages) for messages in conversations]
        tokens = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        encoded = []
        for position, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
            ids = tokens["input_ids"][position]
            spans = self.assistant_spans(messages, text)
            supervised = self._supervised(ids, tokens["offset_mapping"][position], spans)
            encoded.append(
                EncodedExample(
                    tuple(ids[: self.max_length]), tuple(supervised[: self.max_length])
                )
            )
        return encoded

    def encode_for_training(
        self, conversations: Sequence[Sequence[Message]]
    ) -> tuple[list[EncodedExample], EncodingReport]:
        """Encode, leave out what has nothing to learn from, and count what was cut."""
        encoded = self.encode_all(conversations)
        kept = [example for example in encoded if example.supervised_tokens]
        truncated = sum(len(example) == self.max_length for example in kept)
        return kept, EncodingReport(len(kept), truncated, len(encoded) - len(kept))

    def assistant_spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Character ranges of ``text`` that the assistant says, one for each of its turns.

        A range runs from the end of the generation prompt to the end of the turn as the template
        closes it. Templates that do not render a conversation as a continuation of its beginning
        (some drop earlier reasoning) are searched for the message's text instead.
        """
        spans = []
        cursor = 0
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:position], generation_prompt=True)
            after = self.render(messages[: position + 1])
            if text.startswith(before) and text.startswith(after) and len(after) > len(before):
                start, end = len(before), len(after)
            else:
                start, end = self._find_turn(message, text, cursor)
            spans.append((start, end))
            cursor = end
        return spans

    def _find_turn(self, message: Message, text: str, cursor: int) -> tuple[int, int]:
        content = message["content"].strip()
        start = text.find(content, cursor)
        if start < 0:
            raise UserError(
                "the model's chat template changes the assistant's words, so the supervised part "
                f"cannot be found; the message begins {content[:40]!r}"
            )
        return start, self._end_of_turn(text, start + len(content))

    def _end_of_turn(self, text: str, position: int) -> int:
        """The end of the special token that follows ``position`` directly, else ``position``."""
        rest = text[position:]
        for token in self.tokenizer.all_special_tokens:
            if rest.startswith(token):
                return position + len(token)
        return position

    def _supervised(
        self,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        spans: Sequence[tuple[int, int]],
    ) -> list[bool]:
        special = set(self.tokenizer.all_special_ids)
        supervised = [False] * len(ids)
        for start, end in spans:
            inside = [
                position
                for position, (first, last) in enumerate(offsets)
                if start <= first and last <= end and last > first
            ]
            closing = [position for position in inside if ids[position] in special]
            if closing:  # what the template writes after the end-of-turn token is never generated
                inside = [position for position in inside if position <= closing[-1]]
            for position in inside:
                supervised[position] = True
        return supervised

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _for_template(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Plain dictionaries, the form every template can read."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]
