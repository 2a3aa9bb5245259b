"""Texts of files: what is read, what is left out, what is refused."""

from __future__ import annotations

import json

import pytest

from epi_bench.errors import UserError
from epi_bench.model import text_file
from epi_bench.model.text_file import read_text_file, texts_fingerprint


def _rows(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_text_file_is_one_text_and_a_file_of_rows_several(tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_text('{"text": "one"}\n', encoding="utf-8")
    rows = _rows(tmp_path / "rows.jsonl", {"text": "one", "id": 1}, {"text": " "}, {"text": "two"})
    assert read_text_file(plain) == (('{"text": "one"}\n',), False)
    assert read_text_file(rows) == (("one", "two"), False)


def test_no_more_than_so_many_characters_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "MOST_CHARACTERS", 5)
    plain = tmp_path / "plain.txt"
    for content, expected in (("12345", ("12345", False)), ("123456", ("12345", True))):
        plain.write_text(content)
        texts, is_cut = read_text_file(plain)
        assert (texts, is_cut) == ((expected[0],), expected[1])
    rows = _rows(tmp_path / "rows.jsonl", {"text": "123"}, {"text": "456"}, {"text": "7"})
    assert read_text_file(rows) == (("123", "45"), True)
    rows = _rows(tmp_path / "rows.jsonl", {"text": "123"}, {"text": "45"}, {"text": "6"})
    assert read_text_file(rows) == (("123", "45"), True)


def test_texts_are_known_by_their_content_and_where_one_ends():
    assert texts_fingerprint(["one", "two"]) != texts_fingerprint(["onetwo"])
    assert texts_fingerprint(["one"]) == texts_fingerprint(("one",))


def test_what_is_no_text_is_told(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (empty, "is empty"),
        (binary, "must be UTF-8"),
        (tmp_path / "nowhere.txt", "cannot read .*nowhere"),
        (_rows(tmp_path / "a.jsonl", {"content": "x"}), r"line 1 has no field 'text'.* content"),
        (_rows(tmp_path / "b.jsonl", {"text": "x"}, {"text": 3}), "line 2 field 'text' is no text"),
        (_rows(tmp_path / "c.jsonl", {"text": ""}), "is empty"),
    ):
        with pytest.raises(UserError, match=message):
            read_text_file(path)
