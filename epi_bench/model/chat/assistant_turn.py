"""Where an assistant turn stands in a rendered conversation, and how templates write its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """Where in a rendered conversation the assistant speaks, as character positions.

    Attributes:
        start: End of the generation prompt: the first character that the model writes.
        content_end: End of the message's own text.
        end: End of the end-of-turn token, or of all that closes the turn if there is none.
        has_end_token: Whether the turn ends with a token of its own, where generation can stop.
        opening: The template's fixed text before ``start``; empty where it is not known.
    """

    start: int
    content_end: int
    end: int
    has_end_token: bool
    opening: str = ""


def written_forms(content: str) -> Iterator[str]:
    """The forms in which templates write a message: as it is, trimmed, without its reasoning.

    Args:
        content: The message's text.

    >>> list(dict.fromkeys(written_forms(" so ")))
    [' so ', 'so', 'so ', ' so']
    """
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
