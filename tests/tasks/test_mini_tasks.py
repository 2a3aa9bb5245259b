"""The embedded suite: generated, disjoint, correct, encodable."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.location import tiny_folder
from epi_bench.spec.defaults import TINY_DEFAULTS
from epi_bench.task.files.suites import suite_tasks
from epi_bench.task.task import TASKS

pytestmark = pytest.mark.parametrize("name", suite_tasks("mini"))


def _prompts(examples):
    return [tuple(message["content"] for message in example.prompt) for example in examples]


def test_splits_are_disjoint_without_duplicates_and_large_enough(name):
    train, test = (_prompts(TASKS.get(name)().examples(split)) for split in ("train", "test"))
    assert len(test) >= 200
    assert len(train) >= 2000
    assert len({*train, *test}) == len(train) + len(test)


def test_examples_are_the_same_at_every_call(name):
    assert TASKS.get(name)().examples("test") == TASKS.get(name)().examples("test")


def test_the_reference_is_what_is_learned(name):
    for example in TASKS.get(name)().examples("train")[:200]:
        assert example.messages[-1] == {"role": "assistant", "content": example.reference}
        roles = [message["role"] for message in example.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_multiple_choice_has_four_different_options_with_the_answer_at_any_place(name):
    if TASKS.get(name).card.scoring != "choice":
        assert all(not example.options for example in TASKS.get(name)().examples("test"))
        return
    places = []
    for example in TASKS.get(name)().examples("test"):
        assert len(set(example.options)) == 4
        places.append(example.options.index(example.reference))
    assert all(30 < places.count(place) < 70 for place in range(4))  # of 200


def test_supervised_tokens_are_the_answers(name):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    encoder = ChatEncoder(tokenizer, TINY_DEFAULTS["data"]["max_length"])
    examples = TASKS.get(name)().examples("test")
    encoded, report = encoder.training([e.messages for e in examples])
    assert (report.truncated, report.unsupervised) == (0, 0)
    for example, tokens in zip(examples, encoded, strict=True):
        said = [token for token, s in zip(tokens.input_ids, tokens.supervised, strict=True) if s]
        answers = [m["content"] for m in example.messages if m["role"] == "assistant"]
        assert tokenizer.decode(said) == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_answers_are_right(name):
    checks = {"mini_math": _check_math, "mini_code": _check_code}
    if name in checks:
        for example in TASKS.get(name)().examples("test"):
            checks[name](example)
    assert TASKS.get(name).card.metric in ("exact_match", "acc")


def _check_math(example):
    worked, marked = example.reference.split("\n#### ")
    first, second = map(int, worked.split("+"))
    assert int(marked) == first + second
    assert f" {first} " in example.prompt[0]["content"]
    assert f" {second}." in example.prompt[0]["content"]


def _check_code(example):
    import ast

    ast.parse(example.reference)
