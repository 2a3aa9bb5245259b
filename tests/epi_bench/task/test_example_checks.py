"""Examples that could not be encoded or scored are refused by their number, before a run."""

import pytest

from epi_bench import (
    Example,
    Task,
    TaskCard,
    UserError,
    ask,
)
from epi_bench.task.example_checks import check_examples

GOOD = Example(ask("q", "a"), "a", ("a", "b"))


def check(*examples, scoring="choice"):
    class Some(Task):
        name = "some"
        card = TaskCard("s", "x", scoring, "acc", "CC0-1.0")

        def examples(self, split):
            return examples

    check_examples(Some(), "test", examples)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("text", "is not an epi_bench.Example but 'text'"),
        (Example((), "a"), "has no messages"),
        (Example(({"content": "q"},), "a"), "a message 1 without a role"),
        (Example(("q", "a"), "a"), "a message 1 without a role: 'q'"),
        (Example(ask("q", "a")[:1], "a"), "does not end with a message of the assistant"),
        (Example(ask("q", None), "a", ("a", "b")), "as content of message 2 no text but null"),
        (Example(ask("q\ud800", "a"), "a", ("a", "b")), "message 1 no Unicode text"),
        (Example(ask("q", "a"), 7, ("a", "b")), "as reference no text but 7"),
        (Example(ask("q", "a"), "a", ("a", 7)), "as option 2 no text but 7"),
        (Example(ask("q", "a"), "a", ("a", " ")), "an empty option"),
        (Example(ask("q", "a"), "a", ("a", "a")), "fewer than two different options"),
        (Example(ask("q", "a"), "c", ("a", "b")), "the reference 'c', which is none of its"),
    ],
)
def test_a_broken_example_is_named(example, message):
    with pytest.raises(UserError, match=rf"task 'some': test example 2 .*{message}"):
        check(GOOD, example)


def test_options_are_looked_at_only_where_the_model_chooses():
    check(GOOD, Example(ask("q", "a"), "c", ("a", "")), scoring="generate")
    check(GOOD, Example(ask("😀", "a"), "b", ("a", "b")))
