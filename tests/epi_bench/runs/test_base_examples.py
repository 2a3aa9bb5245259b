"""The examples on which a strategy measures the base model, in a run."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.model.load import load_tokenizer
from epi_bench.model.location import locate_model
from epi_bench.runs.base_examples import BaseExamples, base_text_warnings
from epi_bench.runs.preparation import prepare_run
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import ModelSpec
from epi_bench.testing.toys import toy_model


def _spec(protect_base):
    options = {"protect_base": protect_base}
    return complete_spec(
        {
            "strategy": {"name": "ewc", "options": options},
            "data": {"tasks": ["mini_math"], "train_examples": 8, "test_examples": 2},
            "training": {"steps": 2},
        }
    )


@pytest.fixture(scope="module")
def examples():
    location = locate_model(ModelSpec(name="tiny"))
    return BaseExamples(load_tokenizer(location), location, max_length=64)


def _drawn(examples, source, count, seed=0):
    return examples(toy_model(), source, count, torch.Generator().manual_seed(seed))


def test_the_general_text_and_a_file_give_windows_drawn_at_random(examples, tmp_path):
    few, all_of_it = _drawn(examples, "general_text", 4), _drawn(examples, "general_text", 10_000)
    assert len(few) == 4
    assert len(all_of_it) > 10
    assert max(map(len, all_of_it)) == 64
    assert few == _drawn(examples, "general_text", 4) != _drawn(examples, "general_text", 4, 1)
    path = tmp_path / "own.txt"
    path.write_text("one two three four five", encoding="utf-8")
    (only,) = _drawn(examples, str(path), 4)
    assert 2 <= len(only) <= 64


def test_the_content_of_a_file_is_part_of_the_runs_identity(tmp_path):
    path = tmp_path / "own.txt"
    ids = []
    for text in ("one two three", "one two three", "one two four"):
        path.write_text(text, encoding="utf-8")
        prepared = prepare_run(_spec(str(path)))
        assert prepared.fingerprints["text:protect_base"] == prepared.texts["protect_base"]
        ids.append(prepared.run_id)
    assert ids[0] == ids[1] != ids[2]


def test_a_text_that_cannot_be_used_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match=r"protect_base='nowhere\.txt' is no text file"):
        prepare_run(_spec("nowhere.txt"))


def test_a_base_that_is_protected_by_what_it_is_measured_on_is_told():
    assert "it looks better" in base_text_warnings("general_text")[0]
    assert base_text_warnings("self") == base_text_warnings("none") == []
