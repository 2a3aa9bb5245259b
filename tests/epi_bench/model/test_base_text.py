"""Texts on which a base model is measured: given ones, and its own."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.model.base_text import read_base_text, text_windows, written_by
from epi_bench.testing.toys import toy_model


def test_a_text_is_cut_into_windows_that_do_not_overlap():
    found = text_windows(range(10, 17), (1,), 4)
    assert [example.input_ids for example in found] == [
        (1, 10, 11, 12), (1, 13, 14, 15), (1, 16),
    ]  # fmt: skip
    assert found[0].supervised == (False, True, True, True)
    bare = text_windows(range(10, 15), (), 2)  # the first token is context, the last one is alone
    assert [example.input_ids for example in bare] == [(10, 11), (12, 13)]


class Coin(nn.Module):
    """Writes token 2 or 3, three times in four the 3; token 1, the end, after a 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=None):
        after_two = torch.tensor([0.0, 1.0, 0.0, 0.0])
        otherwise = torch.tensor([0.0, 0.0, 0.25, 0.75])
        chosen = torch.where((input_ids == 2)[..., None], after_two, otherwise)
        return SimpleNamespace(logits=chosen.log())


def test_a_model_writes_each_token_as_often_as_it_is_likely():
    generator = torch.Generator().manual_seed(0)
    found = written_by(
        Coin().train(), starts=[[3]] * 400, length=4, stop={1}, generator=generator, batch_size=64
    )
    texts = [example.input_ids for example in found]
    assert set(texts) == {(3, 2, 1), (3, 3, 2, 1), (3, 3, 3, 2), (3, 3, 3, 3)}
    # shares 1/4, 3/16, 9/64, 27/64; sd of a share of 400 is at most 0.025
    assert texts.count((3, 3, 3, 3)) / 400 == pytest.approx(27 / 64, abs=0.1)
    assert texts.count((3, 2, 1)) / 400 == pytest.approx(1 / 4, abs=0.1)
    assert all(e.supervised == (False, *[True] * (len(e) - 1)) for e in found)


def test_what_is_written_depends_on_the_generator_alone_and_leaves_the_model_as_it_was():
    model = toy_model().train()
    texts = [
        written_by(
            model, starts=[[4], [5]], length=9, stop={1},
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    ]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]
    assert model.training


def test_a_cache_changes_nothing():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = toy_model()

        def forward(self, input_ids, attention_mask, **options):
            return SimpleNamespace(logits=self.inner(input_ids=input_ids).logits)

    texts = [
        written_by(
            model, starts=[[4]] * 3, length=12, stop=set(),
            generator=torch.Generator().manual_seed(0),
        )
        for model in (toy_model(), Forgetful())
    ]  # fmt: skip
    assert texts[0] == texts[1]


def test_a_file_is_read_and_known_by_its_content(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for path in (first, second):
        path.write_text("Some text.\n", encoding="utf-8")
    assert read_base_text(str(first)) == read_base_text(str(second))
    texts, digest = read_base_text(str(first))
    assert texts == ("Some text.\n",)
    assert digest == hashlib.sha256(b"Some text.\n").hexdigest()
    assert [read_base_text(source) for source in ("none", "general_text", "self")] == [None] * 3


def test_what_is_no_text_is_told(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for source, message in (
        ("general_test", r"is no text file: .* \(did you mean general_text\?\)"),
        ("", "is no text file"),
        (str(tmp_path), "is no text file"),
        (str(empty), "is empty"),
        (str(binary), "must be UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            read_base_text(source)
