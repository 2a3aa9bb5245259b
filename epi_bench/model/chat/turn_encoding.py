"""Token ids of conversations, and which of them the assistant says.

A conversation is tokenised whole where that gives the tokens of generation. Otherwise it is
tokenised in parts, cut where the assistant begins and stops speaking.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epi_bench.model.chat.assistant_turn import AssistantTurn
from epi_bench.model.chat.chat_template import ChatTemplate
from epi_bench.model.chat.rendering import Rendered, Renderer
from epi_bench.model.chat.sequence_start import sequence_start
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Range = tuple[int, int]
"""First position, and the one after the last."""

_BATCH = 1000  # conversations tokenised at once; bounds the memory of their character offsets


@dataclass(frozen=True, slots=True)
class SupervisedText:
    """A stretch of a rendered conversation that is supervised.

    Attributes:
        turn: Whose text it is; the stretch begins where the turn does.
        end: Its end, as a character position.
        needs_end_token: Whether the end-of-sequence token must be added, if this is the last
            stretch: the template closes the turn without a token of its own.
    """

    turn: AssistantTurn
    end: int
    needs_end_token: bool


Choice = Callable[[Sequence[AssistantTurn]], list[SupervisedText]]
"""Chooses what is supervised: :func:`every_turn`, :func:`last_turn` or :func:`last_words`."""


def every_turn(turns: Sequence[AssistantTurn]) -> list[SupervisedText]:
    """All that the assistant says, each turn with what ends it."""
    return [SupervisedText(turn, turn.end, not turn.has_end_token) for turn in turns]


def last_turn(turns: Sequence[AssistantTurn]) -> list[SupervisedText]:
    """The last turn with what ends it."""
    return every_turn(turns[-1:])


def last_words(turns: Sequence[AssistantTurn]) -> list[SupervisedText]:
    """The last turn without what ends it."""
    return [SupervisedText(turn, turn.content_end, False) for turn in turns[-1:]]


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """A conversation as tokens.

    Attributes:
        ids: All of its token ids.
        ranges: Which of them are supervised, one range for each stretch.
    """

    ids: list[int]
    ranges: list[Range]


class TurnEncoder:
    """Encodes conversations whole and finds the assistant's tokens.

    Args:
        tokenizer: A fast tokenizer.
        template: Its chat template.

    Attributes:
        renderer: Renders conversations.
        prefix: Token ids that the tokenizer puts before every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> None:
        self.renderer = Renderer(tokenizer, template)
        self.prefix = sequence_start(tokenizer)
        self.tokenizer = tokenizer
        self._space_tokens: dict[str, list[int]] = {}
        self._can_split = _adds_no_space(tokenizer)

    def encode(
        self, conversations: Sequence[Sequence[Message]], choose: Choice
    ) -> Iterator[TurnTokens]:
        """The tokens of each conversation.

        Args:
            conversations: What to encode.
            choose: What of them is supervised.

        Raises:
            UserError: If the template refuses a conversation, or changes the assistant's words
                beyond recognition.
        """
        for first in range(0, len(conversations), _BATCH):
            rendered = self.renderer.conversations(conversations[first : first + _BATCH])
            for one, (ids, offsets) in zip(rendered, self.renderer.tokenize(rendered), strict=True):
                chosen = choose(one.turns)
                tokens = self._supervise(one, chosen, ids, offsets)
                if chosen and chosen[-1].needs_end_token:
                    tokens = self._close(tokens)
                yield self._open(tokens, one)

    def _supervise(
        self,
        rendered: Rendered,
        chosen: Sequence[SupervisedText],
        ids: list[int],
        offsets: Sequence[Range],
    ) -> TurnTokens:
        """The tokens of what is chosen: among ``ids``, or else of a text tokenised in parts."""
        ranges = []
        whole = True
        text = rendered.for_tokens
        for part in chosen:
            start, start_clean = _token_after(offsets, part.turn.start)
            end, end_clean = _token_after(offsets, part.end)
            ranges.append((start, end))
            prompt_clean = start_clean and self._is_prompt_kept(part.turn, text, ids[:start])
            whole = whole and prompt_clean and end_clean
        if whole or not self._can_split:
            return TurnTokens(ids, ranges)
        stretches = [(part.turn.start, part.end) for part in chosen]
        return _tokenize_in_parts(text, stretches, self.renderer.part_tokenizer(rendered))

    def _is_prompt_kept(self, turn: AssistantTurn, text: str, before: Sequence[int]) -> bool:
        """Whether the tokens before a turn are those of the prompt alone.

        Two or more spaces at the end of a prompt may be tokens of their own or one token,
        depending on whether a word follows.
        """
        if not text[: turn.start][-2:].isspace() or turn.start < 2:
            return True
        if not turn.opening:
            return False
        if turn.opening not in self._space_tokens:
            tokens = self.tokenizer(
                turn.opening, add_special_tokens=False, return_offsets_mapping=True
            )
            position, _ = _token_after(tokens["offset_mapping"], len(turn.opening.rstrip()))
            self._space_tokens[turn.opening] = tokens["input_ids"][position:]
        spaces = self._space_tokens[turn.opening]
        return list(before[len(before) - len(spaces) :]) == spaces

    def _missing_prefix(self, ids: list[int], rendered: Rendered) -> tuple[int, ...]:
        """What the tokenizer puts before a text, unless the template has written it."""
        prefix = self.prefix
        if tuple(ids[: len(prefix)]) == prefix:
            return ()
        written = all(
            str(self.tokenizer.convert_ids_to_tokens(token)) in rendered.before for token in prefix
        )
        return () if written else prefix

    def _open(self, tokens: TurnTokens, rendered: Rendered) -> TurnTokens:
        """Add the tokenizer's beginning-of-sequence token where the template writes none."""
        missing = self._missing_prefix(tokens.ids, rendered)
        size = len(missing)
        ranges = [(start + size, end + size) for start, end in tokens.ranges]
        return TurnTokens([*missing, *tokens.ids], ranges)

    def _close(self, tokens: TurnTokens) -> TurnTokens:
        """Add the end-of-sequence token to the last supervised stretch."""
        end = self.tokenizer.eos_token_id
        if end is None:
            return tokens
        closed = [*tokens.ids, int(end)]
        return TurnTokens(closed, [*tokens.ranges[:-1], (tokens.ranges[-1][0], len(closed))])


def _tokenize_in_parts(
    text: str, stretches: Sequence[Range], tokenize: Callable[[str], list[int]]
) -> TurnTokens:
    ids: list[int] = []
    ranges = []
    cursor = 0
    for start, end in stretches:
        ids += tokenize(text[cursor:start])
        first = len(ids)
        ids += tokenize(text[start:end])
        ranges.append((first, len(ids)))
        cursor = end
    return TurnTokens(ids + tokenize(text[cursor:]), ranges)


def _token_after(offsets: Sequence[Range], boundary: int) -> tuple[int, bool]:
    """Position of the first token with a character at or after ``boundary``, and whether it
    begins there.

    Some tokenizers leave leading spaces out of a token's offsets, even all of them; so a token
    counts as beginning earlier if no token before it reaches up to the boundary.
    """
    position = bisect_right(offsets, boundary, key=_end_of)
    reached = offsets[position - 1][1] if position else 0
    begins = offsets[position][0] if position < len(offsets) else boundary
    return position, reached == boundary and begins >= boundary


def _end_of(offset: Range) -> int:
    return offset[1]


def _adds_no_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer adds no space in front, so that tokens of parts can be joined."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(tokenizer.decode([*ids, *ids]) == "aa")
