"""From conversations to token ids with a loss mask: only what the assistant says is supervised.

Every conversation is rendered with the tokenizer's own chat template and tokenised whole, so the
tokens are those that ``tokenizer.apply_chat_template`` gives. The supervised part of an assistant
turn begins where the template's generation prompt ends and includes the end-of-turn token, in
every turn; where the template closes a turn with more than that token (a line break, say), the
rest is not supervised, because no generation ever has to produce it.

Two cases differ from ``apply_chat_template``, so that a model is trained on what it can generate:

- the supervised part is tokenised by itself where the whole text has other tokens at its
  boundaries: where a token would reach across one (``assistant\\n`` and an answer that begins with
  a line break), or where the prompt's last blanks are other tokens when a word follows;
- where a template ends the last turn without a token of its own, the end-of-sequence token is
  added, or nothing would teach the model to stop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epi_bench.chat_template import DEFAULT_CHAT_TEMPLATE, AssistantTurn, ChatTemplate
from epi_bench.errors import UserError
from epi_bench.task import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DEFAULT_CHAT_TEMPLATE", "ChatEncoder", "EncodedExample", "EncodingReport"]

_BATCH = 1000  # conversations tokenised at once; bounds the memory of their character offsets

_Range = tuple[int, int]


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
        max_length: Longest conversation in tokens, at least 1; longer ones lose their end in
            training and the beginning of their prompt in scoring.
        mask_history: Whether only the last assistant turn carries loss.
        template_arguments: Variables for the chat template, such as ``enable_thinking``.

    Attributes:
        template: Source of the chat template.
        template_arguments: Variables that it is given.
        uses_default_template: Whether the tokenizer brought none.

    Raises:
        UserError: If the tokenizer is a slow one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        mask_history: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                "the tokenizer is a slow one: convert it to tokenizer.json (a fast tokenizer), "
                "character offsets are needed to find the assistant's tokens"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.mask_history = mask_history
        self._chat_template = ChatTemplate(tokenizer, template_arguments)
        self.template = self._chat_template.text
        self.template_arguments = self._chat_template.arguments
        self.uses_default_template = self._chat_template.is_default
        self._blank_tokens: dict[str, list[int]] = {}
        self._can_split = _is_free_of_prefixes(tokenizer)

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The conversation as the model reads it, as text.

        Raises:
            UserError: If the template refuses the conversation's roles.
        """
        return self._chat_template.render(messages, generation_prompt)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of ``messages`` followed by the template's generation prompt."""
        return self._tokenize(self.render(messages, generation_prompt=True))

    def encode(self, messages: Sequence[Message]) -> EncodedExample:
        """Token ids and loss mask of one conversation, cut to ``max_length``."""
        return self.encode_all([messages])[0]

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[EncodedExample]:
        """Token ids and loss masks of many conversations, each cut to ``max_length``."""
        return [self._cut_end(example) for example in self._encode_for_training(conversations)]

    def encode_for_training(
        self,
        conversations: Sequence[Sequence[Message]],
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[list[EncodedExample], EncodingReport]:
        """Encode, leave out what has nothing to learn from, and count what was cut.

        Args:
            conversations: What to encode.
            on_progress: Called with the number of conversations encoded so far, now and then.
        """
        kept: list[EncodedExample] = []
        truncated = unsupervised = 0
        for done, whole in enumerate(self._encode_for_training(conversations), start=1):
            if on_progress and (done % _BATCH == 0 or done == len(conversations)):
                on_progress(done)
            example = self._cut_end(whole)
            if not any(example.supervised[1:]):  # the first token has nothing to be told from
                unsupervised += 1
                continue
            kept.append(example)
            truncated += len(whole) > len(example)
        return kept, EncodingReport(len(kept), truncated, unsupervised)

    def encode_for_scoring(self, messages: Sequence[Message]) -> EncodedExample:
        """A conversation of which only the last assistant turn is supervised.

        The tokens before it are those of :meth:`prompt_ids`. A conversation longer than
        ``max_length`` loses the beginning of its prompt, never a part of the answer; an answer
        that is too long by itself keeps one token of the prompt before it, and the result is
        longer than ``max_length``.
        """
        ids, ranges = next(self._encode([messages], last_only=True))
        return self._cut_prompt(ids, ranges[-1])

    def encode_options(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> list[EncodedExample]:
        """Each option as the answer to ``messages``, for scoring by log-likelihood.

        Only the option's own tokens are supervised, no end-of-turn token, and nothing follows
        them. Cut like :meth:`encode_for_scoring`.

        Raises:
            UserError: If an option has no token.
        """
        answers: list[list[Message]] = [
            [*messages, {"role": "assistant", "content": option}] for option in options
        ]
        encoded = []
        rows = self._encode(answers, last_only=True, words_only=True)
        for option, (ids, ranges) in zip(options, rows, strict=True):
            start, end = ranges[-1]
            if start == end:
                raise UserError(f"the option {option!r} is empty: it cannot be scored")
            encoded.append(self._cut_prompt(ids[:end], (start, end)))
        return encoded

    def assistant_spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Character ranges of ``text`` that the assistant says, one for each of its turns.

        A range runs from the end of the generation prompt to the end of the end-of-turn token.

        Raises:
            UserError: If the template changes the assistant's words beyond recognition.
        """
        turns = self._chat_template.assistant_turns(messages, text)
        return [(turn.start, turn.end) for turn in turns]

    def _encode_for_training(
        self, conversations: Sequence[Sequence[Message]]
    ) -> Iterator[EncodedExample]:
        for ids, ranges in self._encode(conversations, last_only=self.mask_history):
            yield _example(ids, ranges)

    def _encode(
        self,
        conversations: Sequence[Sequence[Message]],
        last_only: bool,
        words_only: bool = False,
    ) -> Iterator[tuple[list[int], list[_Range]]]:
        """Token ids of each conversation, and which of them (from, to) the assistant says.

        Args:
            conversations: What to encode.
            last_only: Leave out all turns but the last.
            words_only: Leave out what ends a turn.
        """
        for first in range(0, len(conversations), _BATCH):
            batch = conversations[first : first + _BATCH]
            texts = self._chat_template.render_all(batch)
            tokens = self.tokenizer(
                texts,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for position, (messages, text) in enumerate(zip(batch, texts, strict=True)):
                turns = self._chat_template.assistant_turns(messages, text)
                turns = turns[-1:] if last_only else turns
                ends = [turn.content_end if words_only else turn.end for turn in turns]
                ids, offsets = tokens["input_ids"][position], tokens["offset_mapping"][position]
                ids, ranges = self._ranges(text, turns, ends, ids, offsets)
                if turns and not turns[-1].closed and not words_only:
                    ids, ranges = self._close(ids, ranges)
                yield ids, ranges

    def _ranges(
        self,
        text: str,
        turns: Sequence[AssistantTurn],
        ends: Sequence[int],
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
    ) -> tuple[list[int], list[_Range]]:
        ranges = []
        whole = True
        for turn, end in zip(turns, ends, strict=True):
            start_position, start_clean = _token_after(offsets, turn.start)
            end_position, end_clean = _token_after(offsets, end)
            ranges.append((start_position, end_position))
            prompt_clean = start_clean and self._is_prompt_kept(turn, text, ids[:start_position])
            whole = whole and prompt_clean and end_clean
        if whole or not self._can_split:
            return ids, ranges
        spans = [(turn.start, end) for turn, end in zip(turns, ends, strict=True)]
        return self._tokenize_in_parts(text, spans)

    def _is_prompt_kept(self, turn: AssistantTurn, text: str, before: Sequence[int]) -> bool:
        """Whether the tokens before a turn are those of the prompt alone.

        Two or more blanks at the end of a prompt may be tokens of their own or one token,
        depending on whether a word follows.
        """
        if not text[: turn.start][-2:].isspace() or turn.start < 2:
            return True
        if not turn.opening:
            return False
        if turn.opening not in self._blank_tokens:
            tokens = self.tokenizer(
                turn.opening, add_special_tokens=False, return_offsets_mapping=True
            )
            position, _ = _token_after(tokens["offset_mapping"], len(turn.opening.rstrip()))
            self._blank_tokens[turn.opening] = tokens["input_ids"][position:]
        blanks = self._blank_tokens[turn.opening]
        return list(before[len(before) - len(blanks) :]) == blanks

    def _tokenize_in_parts(
        self, text: str, spans: Sequence[_Range]
    ) -> tuple[list[int], list[_Range]]:
        ids: list[int] = []
        ranges = []
        cursor = 0
        for start, end in spans:
            ids += self._tokenize(text[cursor:start])
            first = len(ids)
            ids += self._tokenize(text[start:end])
            ranges.append((first, len(ids)))
            cursor = end
        return ids + self._tokenize(text[cursor:]), ranges

    def _close(self, ids: list[int], ranges: list[_Range]) -> tuple[list[int], list[_Range]]:
        """Add the end-of-sequence token to the last turn."""
        end = self.tokenizer.eos_token_id
        if end is None or not ranges:
            return ids, ranges
        closed = [*ids, int(end)]
        return closed, [*ranges[:-1], (ranges[-1][0], len(closed))]

    def _cut_end(self, example: EncodedExample) -> EncodedExample:
        if len(example) <= self.max_length:
            return example
        limit = self.max_length
        return EncodedExample(example.input_ids[:limit], example.supervised[:limit])

    def _cut_prompt(self, ids: list[int], answer: _Range) -> EncodedExample:
        excess = min(len(ids) - self.max_length, answer[0] - 1)
        if excess <= 0:
            return _example(ids, [answer])
        return _example(ids[excess:], [(answer[0] - excess, answer[1] - excess)])

    def _tokenize(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return list(ids)


def _example(ids: Sequence[int], ranges: Sequence[_Range]) -> EncodedExample:
    supervised = [False] * len(ids)
    for start, end in ranges:
        supervised[start:end] = [True] * (end - start)
    return EncodedExample(tuple(ids), tuple(supervised))


def _token_after(offsets: Sequence[tuple[int, int]], boundary: int) -> tuple[int, bool]:
    """Position of the first token with a character at or after ``boundary``, and whether it
    begins there.

    Some tokenizers leave leading blanks out of a token's offsets, even all of them; so a token
    counts as beginning earlier if no token before it reaches up to the boundary.
    """
    position = bisect_right(offsets, boundary, key=_end_of)
    reached = offsets[position - 1][1] if position else 0
    begins = offsets[position][0] if position < len(offsets) else boundary
    return position, reached == boundary and begins >= boundary


def _end_of(offset: tuple[int, int]) -> int:
    return offset[1]


def _is_free_of_prefixes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text may be tokenised in parts: some tokenizers put a blank before each part."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(tokenizer.decode([*ids, *ids]) == "aa")
