"""Finding the assistant's turns where a template looks into the messages or changes their words.

Some templates drop earlier reasoning, some rewrite words. Their conversations cannot be taken apart
by the shape alone (:mod:`epi_bench.model.chat.template_shape`), so each turn is found by itself: as
what the conversation up to it adds to its prompt, else as its words between the shape's edges.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from epi_bench.errors import UserError
from epi_bench.model.chat.assistant_turn import AssistantTurn, written_forms
from epi_bench.model.chat.template_shape import ShapeLearner, TemplateShape
from epi_bench.task.example import Message

Render = Callable[[list[Message], bool], str]
"""Renders messages, with the generation prompt of training if that is asked for."""


class TurnSearch:
    """Finds turns one by one.

    Args:
        render: Renders messages as :meth:`ChatTemplate.render` does.
        shapes: Of the same template.
    """

    def __init__(self, render: Render, shapes: ShapeLearner) -> None:
        self._render = render
        self._shapes = shapes

    def find(
        self, shape: TemplateShape | None, messages: list[Message], text: str
    ) -> list[AssistantTurn]:
        """The assistant's turns in ``text``, the rendered ``messages``.

        Args:
            shape: For the messages' roles; ``None`` if it could not be learned.
            messages: The conversation.
            text: As the template writes it.

        Raises:
            UserError: If the template changes the assistant's words beyond recognition.
        """
        turns: list[AssistantTurn] = []
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            cursor = turns[-1].end if turns else 0
            turn = self._continuation(messages[: position + 1], text)
            turn = turn or _occurrence(shape, message["content"], position, text, cursor)
            if turn is None:
                raise UserError(
                    "the model's chat template changes the assistant's words, so the supervised "
                    f"part cannot be found; the message begins {message['content'][:40]!r}"
                )
            turns.append(turn)
        return turns

    def _continuation(self, messages: list[Message], text: str) -> AssistantTurn | None:
        """The last turn of ``messages``, if they are rendered as the beginning of ``text``."""
        before = self._render(messages[:-1], True)
        after = self._render(messages, False)
        if not (text.startswith(after) and after.startswith(before)) or len(after) <= len(before):
            return None
        roles = tuple(message["role"] for message in messages)
        last = self._shapes.gaps(roles, False)
        gap = last[-1] if last and after.endswith(last[-1]) else ""
        content_end = len(after) - len(gap)
        if content_end < len(before):
            return None
        closing, has_end_token = self._shapes.closing(gap, gap, self._shapes.gap_before_user(roles))
        return AssistantTurn(len(before), content_end, content_end + len(closing), has_end_token)


def _occurrence(
    shape: TemplateShape | None, content: str, position: int, text: str, cursor: int
) -> AssistantTurn | None:
    """The turn of the message at ``position``, if its words are found between their edges.

    Args:
        shape: Gives the edges; without one the words alone are looked for.
        content: The message's text.
        position: The message's place in the conversation.
        text: The rendered conversation.
        cursor: Where to begin to look.
    """
    gap = shape.gaps[position] if shape else ""
    edges = shape.edges[position] if shape else None
    closing = edges.closing if edges else ""
    for before, words in product(dict.fromkeys([gap, gap.lstrip(), ""]), written_forms(content)):
        found = text.find(before + words + closing, cursor) if before or words else -1
        if found >= 0:
            start = found + len(before)
            end = start + len(words)
            has_end_token = bool(edges and edges.has_end_token)
            return AssistantTurn(start, end, end + len(closing), has_end_token)
    return None
