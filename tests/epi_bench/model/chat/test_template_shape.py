"""What a template writes around the messages, and turns found with it."""

import re

import pytest

from epi_bench.model.chat import template_shape
from epi_bench.model.chat.assistant_turn import AssistantTurn
from epi_bench.model.chat.chat_template import DEFAULT_CHAT_TEMPLATE
from epi_bench.model.chat.template_shape import ShapeLearner, TemplateShape, TurnEdges

ROLES = ("user", "assistant")
END = "<|im_end|>"


def learner(write):
    """Of a template that writes one message as ``write(role, content)`` does."""

    def apply(messages, generation_prompt):
        text = "".join(write(m["role"], m["content"]) for m in messages)
        return text + ("A: " if generation_prompt else "")

    return ShapeLearner(apply, ["</s>", "<|end|>"])


def chatml(messages, generation_prompt):
    from jinja2 import Template

    template = Template(DEFAULT_CHAT_TEMPLATE, keep_trailing_newline=True)
    return template.render(messages=messages, add_generation_prompt=generation_prompt)


CHATML = ShapeLearner(chatml, ["<|im_start|>", END])


def test_the_picture_in_the_documentation_is_what_is_learned():
    line, *brackets = (
        re.search(r"::\n\n((?:    .*\n)+)", template_shape.__doc__).group(1).split("\n")
    )
    found = {
        bracket.group(1): line[bracket.start() : bracket.end()].replace("\\n", "\n")
        for marked in brackets
        for bracket in re.finditer(r"\[-* ?([a-z0-9 ]+?) ?-*\]", marked)
    }
    shape = CHATML.shape(ROLES)
    assert [found[f"gap {n}"] for n in range(3)] == list(shape.gaps)
    assert shape.edges[0] is None
    assert shape.edges[1] == TurnEdges(found["opening"], found["closing"], True)
    assert found["supervised"] == "Hello." + found["closing"]
    asked = chatml([{"role": "user", "content": "Hi"}], True)
    assert asked.endswith(found["generation prompt"])
    assert asked == line.replace("\\n", "\n").strip(" ").partition("Hello.")[0]


def test_turns_are_matched_even_where_their_words_occur_elsewhere():
    messages = [{"role": role, "content": "user"} for role in ROLES * 2]
    text = chatml(messages, False)
    turns = CHATML.shape(ROLES * 2).match(messages, text)
    starts = [found.end() for found in re.finditer("assistant\n", text)]
    assert [turn.start for turn in turns] == starts
    assert [text[turn.start : turn.end] for turn in turns] == [f"user{END}"] * 2
    assert all(turn.has_end_token for turn in turns)


def test_a_text_that_is_not_made_of_the_gaps_is_not_matched():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    shape = CHATML.shape(ROLES)
    text = chatml(messages, False)
    assert shape.match(messages, text) is not None
    for other in (f" {text}", f"{text} ", text.replace("b<", "c<"), ""):
        assert shape.match(messages, other) is None


def test_positions_of_a_turn_are_counted_by_hand():
    shape = TemplateShape(("<", "> A:", "</s>\n"), (None, TurnEdges("> A", "</s>", True)))
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    # 0 "<", 1 "ab", 3 "> A:", 7 "c", 8 "</s>", 12 "\n"; the colon is the model's to write
    assert shape.match(messages, "<ab> A:c</s>\n") == [AssistantTurn(6, 8, 12, True, "> A")]


@pytest.mark.parametrize(
    ("after", "after_last", "before_user", "expected"),
    [
        ("</s>\nU: ", "</s>\n", "</s>\nU: ", ("</s>", True)),
        ("<|end|></s>U: ", "<|end|></s>", "<|end|></s>U: ", ("<|end|></s>", True)),
        ("</s><|end|>U: ", "</s>", "</s><|end|>U: ", ("</s>", True)),  # the next turn opens so
        ("\nU: ", "\n", "\nU: ", ("\n", False)),
        ("", "", "", ("", False)),
    ],
)
def test_what_closes_a_turn(after, after_last, before_user, expected):
    assert learner(str.__add__).closing(after, after_last, before_user) == expected


def test_the_end_of_a_prompt_becomes_that_of_training():
    plain = learner(lambda role, content: f"{role[0].upper()}: {content}\n")
    assert plain.fix_prompt_end("U: hi\nA: ", ("user",)) == "U: hi\nA: "
    longer = learner(lambda role, content: f"{role[0].upper()}:{content}\n")
    assert longer.fix_prompt_end("U:hi\nA: ", ("user",)) == "U:hi\nA:"
    without = ShapeLearner(lambda messages, _: longer._apply(messages, False), [])
    assert without.fix_prompt_end("U:hi\n", ("user",)) == "U:hi\nA:"


def test_a_template_that_drops_a_message_has_no_shape():
    silent = learner(lambda role, content: "" if role == "system" else f"{content};")
    assert silent.shape(("system", "user")) is None
    assert silent.gaps(("user", "user"), False) == ["", ";", ";"]
