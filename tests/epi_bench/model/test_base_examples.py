"""The examples on which a strategy measures the base model."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.model.base_examples import BaseExamples, check_base_text
from epi_bench.model.load import load_tokenizer
from epi_bench.model.location import general_text, locate_model
from epi_bench.spec.run_spec import ModelSpec
from epi_bench.testing.toys import toy_model


@pytest.fixture(scope="module")
def location():
    return locate_model(ModelSpec(name="tiny"))


@pytest.fixture(scope="module")
def tokenizer(location):
    return load_tokenizer(location)


def _drawn(examples, source, count, seed=0):
    return examples(toy_model(), source, count, torch.Generator().manual_seed(seed))


def test_general_texts_and_a_file_give_windows_drawn_at_random(location, tokenizer, tmp_path):
    examples = BaseExamples(tokenizer, lambda: [general_text(location)], max_length=64)
    few, all_of_it = _drawn(examples, "general_text", 4), _drawn(examples, "general_text", 10_000)
    assert len(few) == 4
    assert len(all_of_it) > 10
    assert max(map(len, all_of_it)) == 64
    assert few == _drawn(examples, "general_text", 4) != _drawn(examples, "general_text", 4, 1)
    path = tmp_path / "own.txt"
    path.write_text("one two three four five", encoding="utf-8")
    (only,) = _drawn(examples, str(path), 4)
    assert 2 <= len(only) <= 64


def test_no_window_reaches_from_one_text_into_the_next(tokenizer):
    texts = ["one two three", "four five six"]
    examples = BaseExamples(tokenizer, lambda: texts, max_length=64)
    found = {tokenizer.decode(e.input_ids) for e in _drawn(examples, "general_text", 9)}
    assert found == set(texts)


def test_a_text_of_one_token_is_refused(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match=r"short\.txt is a single token: write more"):
        check_base_text(str(path), tokenizer)
    examples = BaseExamples(tokenizer, lambda: ["a"], max_length=64)
    with pytest.raises(UserError, match="protect_base=general_text: the text is a single token"):
        _drawn(examples, "general_text", 4)
