"""One example of a task: what the model reads, what it should answer, what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Scoring = Literal["generate", "choice", "teacher_forced"]
"""How a task of this package asks."""

AnyScoring = Literal["generate", "choice", "teacher_forced", "lm_eval"]
"""The same, or ``lm_eval``: lm-evaluation-harness asks and scores."""


class Message(TypedDict):
    """One turn of a conversation, in the chat format of ``transformers``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from or to be tested on.

    Attributes:
        messages: The whole conversation; the last message is the assistant's, the answer to learn.
            Earlier assistant turns are learned as well.
        reference: The accepted answer in the form that the task scores.
        options: The answers to choose from (scoring mode ``choice``); ``reference`` is one of them.
        meta: Anything the scorer needs, and the row's origin.
    """

    messages: tuple[Message, ...]
    reference: str
    options: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation before the answer."""
        return self.messages[:-1]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said to one example; which fields are filled depends on the scoring mode.

    Attributes:
        text: The generated answer without the end-of-turn token and without drafts
            (``generate``).
        is_cut: Whether the answer had not ended after the most tokens it may have (``generate``).
        option_log_likelihoods: Summed log-likelihood of each option in nats (``choice``).
        correct_tokens: For each supervised token of the answer, whether it was the arg max given
            the true tokens before it (``teacher_forced``); the end-of-turn token counts.
        reference_negative_log_likelihood: Mean a supervised token in nats, if asked for.
    """

    text: str = ""
    option_log_likelihoods: tuple[float, ...] = ()
    correct_tokens: tuple[bool, ...] = ()
    reference_negative_log_likelihood: float | None = None
    is_cut: bool = False


def ask(question: str, answer: str) -> tuple[Message, Message]:
    """A conversation of one question and one answer."""
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def conversation(*contents: str) -> tuple[Message, ...]:
    """Messages of user and assistant in turn, the user first.

    >>> [message["role"] for message in conversation("Hi", "Hello.", "Who are you?")]
    ['user', 'assistant', 'user']
    """
    roles = ("user", "assistant")
    return tuple(
        Message(role=roles[turn % 2], content=content) for turn, content in enumerate(contents)
    )
