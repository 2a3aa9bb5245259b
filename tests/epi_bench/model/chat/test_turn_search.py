"""Turns of templates that look into the messages, each found by itself."""

import pytest

from epi_bench.errors import UserError
from epi_bench.model.chat.template_shape import ShapeLearner
from epi_bench.model.chat.turn_search import TurnSearch


def search(words):
    """Of a template that writes ``words(content, position, count)`` instead of a message."""

    def render(messages, generation_prompt):
        count = len(messages)
        text = "".join(
            f"{m['role'][0]}:{words(m['content'], n, count)}</s>" for n, m in enumerate(messages)
        )
        return text + ("a:" if generation_prompt else "")

    shapes = ShapeLearner(render, ["</s>"])
    return TurnSearch(render, shapes), shapes, render


def conversation(*contents):
    roles = ("user", "assistant") * len(contents)
    pairs = zip(roles, contents, strict=False)
    return [{"role": role, "content": content} for role, content in pairs]


def said(finder, shapes, render, messages):
    text = render(messages, False)
    shape = shapes.shape(tuple(message["role"] for message in messages))
    return [text[turn.start : turn.end] for turn in finder.find(shape, messages, text)]


def test_rewritten_words_are_what_the_conversation_adds_to_its_prompt():
    tools = search(lambda content, n, count: content.upper())
    assert said(*tools, conversation("hi", "yes", "hi", "no")) == ["YES</s>", "NO</s>"]


def test_words_of_an_earlier_turn_are_found_between_their_edges():
    """The template drops a thought once the conversation goes on."""
    tools = search(lambda c, n, count: c if n + 1 == count else c.rpartition("</think>")[2])
    messages = conversation("so", "<think>a</think>so", "so", "<think>b</think>so")
    assert said(*tools, messages) == ["so</s>", "<think>b</think>so</s>"]


def test_words_that_cannot_be_found_are_a_user_error():
    tools = search(lambda content, n, count: content if n + 1 == count else "cut")
    with pytest.raises(UserError, match=r"changes the assistant's words.*begins 'yes'"):
        said(*tools, conversation("hi", "yes", "hi", "no"))
