"""Token ids of conversations, and which of them the assistant says.

A conversation is tokenised whole where that gives the tokens of generation, and else in parts, cut
where the assistant begins and ends to speak.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from epi_bench.model.chat.assistant_turn import AssistantTurn
from epi_bench.model.chat.chat_template import ChatTemplate
from epi_bench.model.chat.rendering import Rendered, Renderer
from epi_bench.model.chat.sequence_start import sequence_start
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenRange = tuple[int, int]
"""First token, and the one after the last."""

_BATCH = 1000  # conversations tokenised at once; bounds the memory of their character offsets


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
        self._blank_tokens: dict[str, list[int]] = {}
        self._can_split = _is_free_of_prefixes(tokenizer)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of ``messages`` followed by the generation prompt."""
        rendered = self.renderer.prompt(messages)
        ids = self.renderer.part_tokenizer(rendered)(rendered.for_tokens)
        return [*self._missing_prefix(ids, rendered), *ids]

    def encode(
        self,
        conversations: Sequence[Sequence[Message]],
        last_only: bool,
        words_only: bool = False,
    ) -> Iterator[tuple[list[int], list[TokenRange]]]:
        """Token ids of each conversation, and which of them (from, to) the assistant says.

        Args:
            conversations: What to encode.
            last_only: Leave out all turns but the last.
            words_only: Leave out what ends a turn.
        """
        for first in range(0, len(conversations), _BATCH):
            rendered = self.renderer.conversations(conversations[first : first + _BATCH])
            for one, (ids, offsets) in zip(rendered, self.renderer.tokenize(rendered), strict=True):
                turns = one.turns[-1:] if last_only else one.turns
                ends = [turn.content_end if words_only else turn.end for turn in turns]
                ids, ranges = self._ranges(one, turns, ends, ids, offsets)
                if turns and not turns[-1].closed and not words_only:
                    ids, ranges = self._close(ids, ranges)
                yield self._open(ids, ranges, one)

    def _ranges(
        self,
        rendered: Rendered,
        turns: Sequence[AssistantTurn],
        ends: Sequence[int],
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
    ) -> tuple[list[int], list[TokenRange]]:
        ranges = []
        whole = True
        text = rendered.for_tokens
        for turn, end in zip(turns, ends, strict=True):
            start_position, start_clean = _token_after(offsets, turn.start)
            end_position, end_clean = _token_after(offsets, end)
            ranges.append((start_position, end_position))
            prompt_clean = start_clean and self._is_prompt_kept(turn, text, ids[:start_position])
            whole = whole and prompt_clean and end_clean
        if whole or not self._can_split:
            return ids, ranges
        spans = [(turn.start, end) for turn, end in zip(turns, ends, strict=True)]
        return _tokenize_in_parts(text, spans, self.renderer.part_tokenizer(rendered))

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

    def _missing_prefix(self, ids: list[int], rendered: Rendered) -> tuple[int, ...]:
        """What the tokenizer puts before a text, unless the template has written it."""
        prefix = self.prefix
        if tuple(ids[: len(prefix)]) == prefix:
            return ()
        written = all(
            str(self.tokenizer.convert_ids_to_tokens(token)) in rendered.before for token in prefix
        )
        return () if written else prefix

    def _open(
        self, ids: list[int], ranges: list[TokenRange], rendered: Rendered
    ) -> tuple[list[int], list[TokenRange]]:
        """Add the tokenizer's beginning-of-sequence token where the template writes none."""
        missing = self._missing_prefix(ids, rendered)
        size = len(missing)
        return [*missing, *ids], [(start + size, end + size) for start, end in ranges]

    def _close(
        self, ids: list[int], ranges: list[TokenRange]
    ) -> tuple[list[int], list[TokenRange]]:
        """Add the end-of-sequence token to the last turn."""
        end = self.tokenizer.eos_token_id
        if end is None or not ranges:
            return ids, ranges
        closed = [*ids, int(end)]
        return closed, [*ranges[:-1], (ranges[-1][0], len(closed))]


def _tokenize_in_parts(
    text: str, spans: Sequence[TokenRange], tokenize: Callable[[str], list[int]]
) -> tuple[list[int], list[TokenRange]]:
    ids: list[int] = []
    ranges = []
    cursor = 0
    for start, end in spans:
        ids += tokenize(text[cursor:start])
        first = len(ids)
        ids += tokenize(text[start:end])
        ranges.append((first, len(ids)))
        cursor = end
    return ids + tokenize(text[cursor:]), ranges


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
