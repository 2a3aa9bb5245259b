"""From conversations to token ids with a loss mask: only what the assistant says is supervised.

Every conversation is rendered with the tokenizer's own chat template and tokenised whole, so the
tokens are those that ``tokenizer.apply_chat_template`` gives. The supervised part of an assistant
turn begins where the template's generation prompt ends and includes the end-of-turn token, in
every turn; where the template closes a turn with more than that token (a line break, say), the
rest is not supervised, because no generation ever has to produce it.

Four cases differ from ``apply_chat_template``, so that a model is trained on what it can generate:

- the supervised part is tokenised by itself where the whole text has other tokens at its
  boundaries: where a token would reach across one (``assistant\\n`` and an answer that begins with
  a line break), or where the prompt's last spaces are other tokens when a word follows;
- where a template ends the last turn without a token of its own, the end-of-sequence token is
  added, or nothing would teach the model to stop;
- a control token's text in a message stays text (:mod:`epi_bench.model.chat.control_tokens`);
- a beginning-of-sequence token that the tokenizer adds to every text, and the template does not
  write, is added once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.model.chat.chat_template import ChatTemplate
from epi_bench.model.chat.choice import begins_another, share_context
from epi_bench.model.chat.encoded_example import EncodedExample, EncodingReport, encoded_example
from epi_bench.model.chat.turn_encoding import (
    TurnEncoder,
    TurnTokens,
    every_turn,
    last_turn,
    last_words,
)
from epi_bench.task.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PROGRESS_EVERY = 1000  # conversations


class ChatEncoder:
    """Encodes conversations for one tokenizer.

    A method for each use: :meth:`training` for a data set to learn from (:meth:`encode` for one
    conversation of it), :meth:`scoring` for the likelihood of an answer, :meth:`prompt` for what an
    answer is generated from, :meth:`options` for answers to choose from.

    .. code-block:: python

        tokenizer = AutoTokenizer.from_pretrained("path/to/model")
        encoder = ChatEncoder(tokenizer, max_length=1024)
        examples, report = encoder.training([example.messages for example in train])

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
        prefix: Token ids that the tokenizer itself puts before a text, such as its
            beginning-of-sequence token; every sequence begins with them once.

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
        self._turns = TurnEncoder(tokenizer, self._chat_template)
        self.prefix = self._turns.prefix
        self._marks = frozenset(
            token
            for token, added in tokenizer.added_tokens_decoder.items()
            if added.content.strip()
        )

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The conversation as the model reads it, as text.

        Raises:
            UserError: If the template refuses the conversation's roles.
        """
        return self._turns.renderer.text(messages, generation_prompt)

    def encode(self, messages: Sequence[Message]) -> EncodedExample:
        """One conversation as it is trained on, cut to ``max_length``.

        Args:
            messages: From the first message to the last; nothing is supervised without an answer.

        Raises:
            UserError: If the template refuses the conversation, or changes the assistant's words
                beyond recognition.
        """
        return self._cut_end(next(self._whole([messages])))

    def training(
        self,
        conversations: Sequence[Sequence[Message]],
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[list[EncodedExample], EncodingReport]:
        """A data set to train on, without what has nothing to learn from.

        Args:
            conversations: Each loses its end where it is longer than ``max_length``.
            on_progress: Called with the number of conversations encoded so far, now and then.

        Returns:
            The examples, each with at least one supervised token, and counts of what was cut and
            left out.

        Raises:
            UserError: As :meth:`encode`.
        """
        kept: list[EncodedExample] = []
        truncated = unsupervised = 0
        for done, whole in enumerate(self._whole(conversations), start=1):
            if on_progress and (done % _PROGRESS_EVERY == 0 or done == len(conversations)):
                on_progress(done)
            example = self._cut_end(whole)
            if not any(example.supervised[1:]):  # nothing stands before the first token
                unsupervised += 1
                continue
            kept.append(example)
            truncated += len(whole) > len(example)
        return kept, EncodingReport(len(kept), truncated, unsupervised)

    def scoring(self, messages: Sequence[Message]) -> EncodedExample:
        """A conversation of which only the last assistant turn is supervised.

        The tokens before it are those that an answer is generated from. A conversation longer than
        ``max_length`` loses the beginning of its prompt (after :attr:`prefix`), never a part of
        the answer; an answer that is too long by itself keeps one token of the prompt before it,
        and the result is longer than ``max_length``.

        Args:
            messages: The last one is the answer.

        Raises:
            UserError: As :meth:`encode`.
        """
        tokens = next(self._turns.encode([messages], last_turn))
        start, end = tokens.ranges[-1]
        context, cut = self._cut_context(tokens.ids[:start], len(tokens.ids) - start)
        supervised = len(context), len(context) + end - start
        return encoded_example([*context, *tokens.ids[start:]], [supervised], cut)

    def prompt(self, messages: Sequence[Message]) -> EncodedExample:
        """What an answer is generated from: the conversation before its last message.

        Cut to ``max_length`` like :meth:`scoring`, whatever the answer's length.

        Args:
            messages: With the answer as the last one, which is left out.

        Raises:
            UserError: As :meth:`encode`.
        """
        tokens = next(self._turns.encode([messages], last_turn))
        context, cut = self._cut_context(tokens.ids[: tokens.ranges[-1][0]], 0)
        return encoded_example(context, [], cut)

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> list[EncodedExample]:
        """Each option as the answer to ``messages``, for scoring by log-likelihood.

        All follow the same context, cut like :meth:`scoring` for the longest of them. Only the
        option's own tokens are supervised, and nothing follows them; where one option is the
        beginning of another, the end of turn belongs to each.

        Args:
            messages: The question.
            options: What may be answered.

        Raises:
            UserError: If an option has no token, or as :meth:`encode`.
        """
        answers: list[list[Message]] = [
            [*messages, {"role": "assistant", "content": option}] for option in options
        ]
        encoded = list(self._turns.encode(answers, last_words))
        for option, tokens in zip(options, encoded, strict=True):
            start, end = tokens.ranges[-1]
            if start == end:
                raise UserError(f"the option {option!r} is empty: it cannot be scored")
        context, continuations = share_context(_up_to_end(encoded))
        if begins_another(continuations):
            with_ends = self._turns.encode(answers, last_turn)
            context, continuations = share_context(_up_to_end(with_ends))
        context, cut = self._cut_context(context, max(map(len, continuations)))
        return [
            encoded_example([*context, *tokens], [(len(context), len(context) + len(tokens))], cut)
            for tokens in continuations
        ]

    @cached_property
    def end_of_turn_ids(self) -> frozenset[int]:
        """Tokens of their own with which the template closes an assistant's turn."""
        closings = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in self._chat_template.closings()
        ]
        return frozenset(token for ids in closings for token in ids if self.is_mark(token))

    def is_mark(self, token: int) -> bool:
        """Whether a token is a special or added one, and more than white space."""
        return token in self._marks

    def _whole(self, conversations: Sequence[Sequence[Message]]) -> Iterator[EncodedExample]:
        """Conversations as they are trained on, before anything is cut."""
        choose = last_turn if self.mask_history else every_turn
        for tokens in self._turns.encode(conversations, choose):
            yield encoded_example(tokens.ids, tokens.ranges)

    def _cut_end(self, example: EncodedExample) -> EncodedExample:
        if len(example) <= self.max_length:
            return example
        limit = self.max_length
        return EncodedExample(example.input_ids[:limit], example.supervised[:limit])

    def _cut_context(self, context: list[int], answer: int) -> tuple[list[int], int]:
        """A context with room for an answer of ``answer`` tokens, and how many were cut from it."""
        prefix = self.prefix
        kept = len(prefix) if tuple(context[: len(prefix)]) == prefix else 0
        excess = min(len(context) + answer - self.max_length, len(context) - max(kept, 1))
        if excess <= 0:
            return context, 0
        return context[:kept] + context[kept + excess :], excess


def _up_to_end(encoded: Iterable[TurnTokens]) -> list[tuple[list[int], int]]:
    """Tokens up to the end of what is supervised last, and where that begins."""
    ranges = [(tokens.ids, *tokens.ranges[-1]) for tokens in encoded]
    return [(ids[:end], start) for ids, start, end in ranges]
