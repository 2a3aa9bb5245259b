"""Where an assistant turn stands in a rendered conversation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """Where in a rendered conversation the assistant speaks, as character positions.

    Attributes:
        start: End of the generation prompt: the first character that the model writes.
        content_end: End of the message's own text.
        end: End of the end-of-turn token, or of all that closes the turn if there is none.
        closed: Whether the turn ends with a token of its own, at which generation can stop.
        opening: The template's fixed text before ``start``; empty where it is not known.
    """

    start: int
    content_end: int
    end: int
    closed: bool
    opening: str = ""
