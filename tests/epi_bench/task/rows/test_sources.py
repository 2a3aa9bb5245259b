"""Reading rows: three layouts with the same rows, and errors that name file and line."""

import json

import pytest

from epi_bench.errors import UserError
from epi_bench.task.rows.json_rows import read_json_rows
from epi_bench.task.rows.locate import Location, locate, read_rows
from epi_bench.task.rows.source import DataSource

SOURCE = DataSource(
    hub_id="someone/sums",
    config="main",
    revision="main",
    splits={"train": "train_part", "test": "test"},
    files={"train": ("sums/train.jsonl",), "test": ("sums/test.jsonl",)},
)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestJsonRows:
    def test_lines_and_arrays_give_the_same_rows(self, tmp_path):
        rows = [{"a": "x\u2028y", "b": [1]}, {"a": "é"}]
        lines = write(
            tmp_path / "r.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
        )
        array = write(tmp_path / "r.json", json.dumps(rows, indent=4))
        assert [row.fields for row in read_json_rows(lines)] == rows
        assert [row.fields for row in read_json_rows(array)] == rows
        assert [row.index for row in read_json_rows(array)] == [0, 1]

    def test_values_one_after_the_other_are_rows(self, tmp_path):
        texts = (
            '{"a": 1}{"a": 2}\n\n{"a":\n3}',
            '[{"a": 1}, {"a": 2}]\n[]\n[{"a": 3}]\n',
            '\r\n[{"a": 1}]\t[{"a": 2}, {"a": 3}]',
        )
        for text in texts:
            rows = list(read_json_rows(write(tmp_path / "r.json", text)))
            assert [row.fields for row in rows] == [{"a": 1}, {"a": 2}, {"a": 3}]
            assert [row.index for row in rows] == [0, 1, 2]

    def test_a_surrogate_pair_is_a_character(self, tmp_path):
        (row,) = read_json_rows(write(tmp_path / "r", r'{"a": "\ud83d\ude00", "b": "\\ud83d"}'))
        assert row.fields == {"a": "\U0001f600", "b": r"\ud83d"}

    def test_a_column_that_other_rows_have_is_missing_in_this_one(self, tmp_path):
        rows = list(read_json_rows(write(tmp_path / "r", '{"a": "x"}\n{"b": NaN}\n{"c": null}')))
        assert [row.value("a") for row in rows] == ["x", None, None]
        assert [row.text("b") for row in rows] == ["", "", ""]
        assert [row.has_column("c") for row in rows] == [True, True, True]
        with pytest.raises(UserError, match="r line 2 has no field 'd'; its fields are b"):
            rows[1].value("d")

    def test_origins_name_the_line_on_which_a_row_begins(self, tmp_path):
        lines = write(tmp_path / "r.jsonl", '{"a": 1}\n\n{"a": 2}\n')
        array = write(tmp_path / "r.json", '[\n  {"a": 1},\n  {\n    "a": 2\n  }\n]\n')
        assert [row.origin for row in read_json_rows(lines, tmp_path)] == [
            "r.jsonl line 1",
            "r.jsonl line 3",
        ]
        assert [row.origin for row in read_json_rows(array, tmp_path)] == [
            "r.json line 2, row 1",
            "r.json line 3, row 2",
        ]

    def test_a_byte_order_mark_and_windows_line_ends_are_no_defect(self, tmp_path):
        path = write(tmp_path / "r.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
        assert [row.fields["a"] for row in read_json_rows(path)] == [1, 2]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"a": 1}\n{"a": \n', "r line 2: not JSON: Expecting value (line 3 column 1)"),
            ('{"a": 1}\n{"a": }\n', "r line 2: not JSON: Expecting value (column 7)"),
            ('{"a": 1}\n[1]\n', "r line 2: not a JSON object but [1]"),
            (b'{"a": 1}\n{"a": "\xff"}\n', "r line 2: not UTF-8 text: byte 0xff"),
            ('[{"a": 1},\n {"a": }]', "r line 2, row 2: not JSON: Expecting value (column 8)"),
            ('[{"a": 1}\n {"a": 2}]', "r line 2, row 2: not JSON: expecting ',' or ']' after"),
            ('[{"a": 1},\n', "r line 2, row 2: not JSON: Expecting value"),
            ('[{"a": 1},]', "r line 1, row 2: not JSON: Expecting value (column 11)"),
            ('[\n{"a": 1},\n\n 7]', "r line 4, row 2: not a JSON object but 7"),
            ('[{"a": 1}, {"a": 2}, 7]', "r line 1, row 3: not a JSON object but 7"),
            ('{"a": 1} {"a": 2} "b"', "r line 1, row 3: not a JSON object but 'b'"),
            (b'[\n{"a": "\xff"}]', "r line 2, row 1: not UTF-8 text: byte 0xff"),
            (b'[{"a": 1}, {\xe9}]', "r line 1, row 2: not UTF-8 text: byte 0xe9"),
            (b'[{"a": 1}, {"\xe9": 1}]', "r line 1, row 2: not UTF-8 text: byte 0xe9"),
            ('[{"a": 1}]\n{"a": 2}', "r line 2, row 2: not JSON: expecting the file's end after"),
            ('[{"a": 1}] so', "r line 1, row 2: not JSON: expecting the file's end after"),
            ('{"a": 1}\n{"a": 2}\nso', "r line 3: not JSON: Expecting value (column 1)"),
            ('{"a": 1},\n{"a": 2}', "r line 1, row 2: not JSON: Expecting value (column 9)"),
            ('{"a": 1, "b": 2, "a": 1}', "r line 1: the key 'a' stands twice in one object"),
            ('[{"b": {"a": 1, "a": 2}}]', "r line 1, row 1: the key 'a' stands twice"),
            (r'[{"a": "x"}, {"a": "\ud83d!"}]', "r line 1, row 2: no Unicode text: \\ud83d is ha"),
            (r'{"a": [{"b\uDC00": 1}]}', "r line 1: no Unicode text: \\udc00 is half of a pair"),
            ('[{"a": 1' + "0" * 5000 + "}]", "r line 1, row 1: a number has more than 4,300 di"),
            ('{"a":' + "[" * 200_000, "r line 1: JSON nested too deeply"),
            ('[{"a":' + "[" * 200_000, "r line 1, row 1: JSON nested too deeply"),
            ('{"a": 1}'.encode("utf-16"), "r is UTF-16 text: save it as UTF-8"),
            ('{"a": 1}'.encode("utf-16-le"), "r is UTF-16 text: save it as UTF-8"),
            ('{"a": 1}'.encode("utf-32"), "r is UTF-32 text: save it as UTF-8"),
            ("", "r has no rows"),
            ("[]", "r has no rows"),
        ],
    )
    def test_a_broken_file_is_an_error_with_file_and_line(self, tmp_path, content, message):
        path = write(tmp_path / "r", content)
        with pytest.raises(UserError) as caught:
            list(read_json_rows(path, tmp_path))
        assert str(caught.value).startswith(message)

    def test_a_missing_field_names_the_row_and_the_fields_it_has(self, tmp_path):
        path = write(tmp_path / "sums" / "train.jsonl", '{"q": "1+1"}\n')
        row = next(read_json_rows(path, tmp_path))
        with pytest.raises(UserError) as caught:
            row.text("answer")
        assert str(caught.value) == (
            "sums/train.jsonl line 1 has no field 'answer'; its fields are q"
        )

    def test_a_field_of_another_kind_is_named(self, tmp_path):
        row = next(read_json_rows(write(tmp_path / "r", '{"q": 3}'), tmp_path))
        with pytest.raises(UserError, match="r line 1 field 'q' is no text but 3"):
            row.text("q")

    def test_null_is_an_empty_text_and_the_first_present_name_counts(self, tmp_path):
        row = next(read_json_rows(write(tmp_path / "r", '{"q": null, "query": " x "}'), tmp_path))
        assert row.text("q") == ""
        assert row.text("q", "query") == row.text("query", "q") == "x"


class TestLocate:
    def test_without_a_folder_the_hub_is_asked(self):
        assert locate(SOURCE, "train", None) == Location("hub", "someone/sums", "train_part")

    @pytest.mark.parametrize("folder", ["sums", "someone/sums"])
    def test_files_lie_in_the_folder_of_the_source_or_of_the_hub_id(self, tmp_path, folder):
        path = write(tmp_path / folder / "train.jsonl", '{"q": "1"}')
        assert locate(SOURCE, "train", tmp_path) == Location("file", str(path))

    def test_the_error_says_what_was_looked_for_and_how_to_get_it(self, tmp_path):
        write(tmp_path / "sums" / "test.jsonl", '{"q": "1"}')
        with pytest.raises(UserError) as caught:
            locate(SOURCE, "train", tmp_path)
        message = str(caught.value)
        assert "no rows for the train split of someone/sums" in message
        assert "found only sums/test.jsonl" in message
        assert "looked for sums/train.jsonl or sums/ with Parquet files" in message
        assert "hf download someone/sums --repo-type dataset --local-dir" in message
        assert "\n" not in message

    def test_a_missing_folder_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match="nowhere does not exist"):
            locate(SOURCE, "train", tmp_path / "nowhere")

    def test_an_unknown_layout_is_an_error(self, tmp_path):
        write(tmp_path / "sums" / "rows.csv", "q\n1\n")
        with pytest.raises(UserError, match=r"looked for sums/train\.jsonl"):
            locate(SOURCE, "train", tmp_path)


ROWS = [{"q": f"{n}+1", "a": [n, n + 1]} for n in range(5)]
README = """---
configs:
- config_name: main
  data_files:
  - split: train_part
    path: main/train_part-*
  - split: test
    path: main/test-*
- config_name: other
  data_files:
  - split: train_part
    path: other/train_part-*
---
"""


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep what ``datasets`` prepares inside the test's folder."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_shards(folder, split, rows, shards=1):
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        part = rows[number * len(rows) // shards : (number + 1) * len(rows) // shards]
        name = f"{split}-{number:05d}-of-{shards:05d}.parquet"
        Dataset.from_list(part).to_parquet(str(folder / name))


@pytest.mark.usefixtures("hub_cache")
class TestHubFolder:
    def read(self, data_dir, split="train"):
        location = locate(SOURCE, split, data_dir)
        assert location.kind == "folder"
        return list(read_rows(SOURCE, location, data_dir).chosen)

    def test_shards_with_a_readme_that_names_configurations(self, tmp_path):
        write_shards(tmp_path / "sums" / "main", "train_part", ROWS, shards=2)
        write_shards(tmp_path / "sums" / "main", "test", ROWS[:1])
        write_shards(tmp_path / "sums" / "other", "train_part", [{"q": "other", "a": [0]}])
        (tmp_path / "sums" / "README.md").write_text(README)
        assert [row.fields for row in self.read(tmp_path)] == ROWS
        assert [row.index for row in self.read(tmp_path)] == [0, 1, 2, 3, 4]

    def test_shards_without_readme_in_a_folder_named_after_the_configuration(self, tmp_path):
        write_shards(tmp_path / "someone" / "sums" / "main", "train_part", ROWS, shards=2)
        write_shards(tmp_path / "someone" / "sums" / "other", "train_part", [{"q": "no"}])
        assert [row.fields for row in self.read(tmp_path)] == ROWS

    def test_shards_of_the_branch_that_the_hub_converts(self, tmp_path):
        write_shards(tmp_path / "new", "train_part", ROWS)
        folder = tmp_path / "sums" / "main" / "train_part"
        folder.mkdir(parents=True)
        next((tmp_path / "new").iterdir()).rename(folder / "0000.parquet")
        assert [row.fields for row in self.read(tmp_path)] == ROWS

    def test_shards_in_the_data_folder(self, tmp_path):
        write_shards(tmp_path / "sums" / "data", "train_part", ROWS)
        assert [row.fields for row in self.read(tmp_path)] == ROWS

    def test_a_limit_chooses_the_same_rows_of_shards_and_of_lines(self, tmp_path):
        write_shards(tmp_path / "sums" / "data", "train_part", ROWS)
        lines = write(tmp_path / "lines" / "r.jsonl", "\n".join(map(json.dumps, ROWS)))
        for location in (locate(SOURCE, "train", tmp_path), Location("file", str(lines))):
            rows = read_rows(SOURCE, location, tmp_path, limit=2)
            assert rows.total == 5
            assert [(row.index, row.fields) for row in rows.chosen] == [(0, ROWS[0]), (2, ROWS[2])]

    def test_a_missing_split_is_named_with_those_that_are_there(self, tmp_path):
        write_shards(tmp_path / "sums" / "data", "test", ROWS)
        with pytest.raises(UserError, match="has no split 'train_part', only test"):
            self.read(tmp_path)

    def test_a_broken_shard_is_an_error(self, tmp_path):
        write(tmp_path / "sums" / "data" / "train_part-00000-of-00001.parquet", "not parquet")
        with pytest.raises(UserError, match="cannot be read as a copy of the hub data set"):
            self.read(tmp_path)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    import datasets
    from huggingface_hub.errors import OfflineModeIsEnabled

    def offline(*_args, **_settings):
        raise OfflineModeIsEnabled("Cannot reach the hub:\noffline mode is enabled")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError) as caught:
        read_rows(SOURCE, locate(SOURCE, "train", None))
    assert "someone/sums" in str(caught.value)
    assert "give data_dir a folder with local files, or go online" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_that_cannot_be_read_is_named_by_its_row(monkeypatch):
    import datasets

    class Shards:
        column_names = ("q",)

        def __len__(self):
            return 2

        def __iter__(self):
            yield {"q": "1"}
            raise OverflowError("days=53375995583650; must have magnitude <= 999999999")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Shards())
    rows = read_rows(SOURCE, locate(SOURCE, "train", None)).chosen
    message = r"someone/sums \(train_part\) row 2 holds a value that cannot be read: days=5337599"
    with pytest.raises(UserError, match=message):
        list(rows)


def test_the_hub_is_asked_for_configuration_split_and_revision(monkeypatch):
    import datasets

    asked = []

    def load(*names, **settings):
        asked.append((names, settings))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row.fields for row in read_rows(SOURCE, locate(SOURCE, "train", None)).chosen] == ROWS
    assert asked == [(("someone/sums", "main"), {"split": "train_part", "revision": "main"})]
