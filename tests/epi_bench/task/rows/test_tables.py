"""Reading a user's own files: what is a row, what is data, and what is an error in one line."""

import datetime
import gzip
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from epi_bench.errors import UserError
from epi_bench.task.rows.tables import read_table


def read(tmp_path, name, content, **settings):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [dict(row.fields) for row in read_table(path, tmp_path, **settings)]


def refused(tmp_path, name, content, **settings):
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_parquet(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


class TestDelimited:
    def test_quotes_are_data_in_tsv(self, tmp_path):
        assert read(tmp_path, "r.tsv", 'q\ta\n"he said\tx\ny\tthe "z"\n') == [
            {"q": '"he said', "a": "x"},
            {"q": "y", "a": 'the "z"'},
        ]

    def test_unless_the_source_says_otherwise(self, tmp_path):
        content = 'q\ta\n"two\nlines"\t"a ""b"""\n'
        assert read(tmp_path, "r.tsv", content, quoting=True) == [{"q": "two\nlines", "a": 'a "b"'}]

    def test_quotes_enclose_cells_in_csv_unless_the_source_says_otherwise(self, tmp_path):
        assert read(tmp_path, "r.csv", 'q,a\n"x, y",z\n') == [{"q": "x, y", "a": "z"}]
        assert read(tmp_path, "r.csv", 'q,a\n"x,z\n', quoting=False) == [{"q": '"x', "a": "z"}]

    def test_cells_are_texts_whatever_they_say(self, tmp_path):
        rows = read(tmp_path, "r.csv", "q,a\nNA,null\nNone,nan\n,5.0\n")
        assert rows == [{"q": "NA", "a": "null"}, {"q": "None", "a": "nan"}, {"q": "", "a": "5.0"}]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_a_byte_order_mark_blank_lines_and_any_line_end_are_no_defect(self, tmp_path, end):
        content = "\ufeffq,a" + end + "x,y" + end + end + "z,w"
        assert read(tmp_path, "r.csv", content) == [{"q": "x", "a": "y"}, {"q": "z", "a": "w"}]

    @pytest.mark.parametrize("ending", [".csv", ".tsv"])
    def test_a_long_cell_and_a_nul_byte_are_data(self, tmp_path, ending):
        assert read(tmp_path, f"r{ending}", f"q\n{'x' * 200_000}\na\0b\n") == [
            {"q": "x" * 200_000},
            {"q": "a\0b"},
        ]

    def test_a_file_may_be_compressed(self, tmp_path):
        assert read(tmp_path, "r.csv.gz", gzip.compress(b"q\n1\n")) == [{"q": "1"}]
        assert read(tmp_path, "r.jsonl.gz", gzip.compress(b'{"q": 1}')) == [{"q": 1}]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("r.csv", "q,a\nx,y\nz\n", "r.csv line 3: 1 fields for 2 columns: put fields"),
            ("r.tsv", "q\ta\nx\ty\tz\n", "r.tsv line 2: 3 fields for 2 columns: a field cannot"),
            ("r.csv", "q,q\nx,y\n", "r.csv line 1: two columns are named 'q'"),
            ("r.csv", "q,\nx,y\n", "r.csv line 1: a column has no name"),
            (
                "r.csv",
                "\n\nq,a\nx,y\n",
                "r.csv line 1: the line is empty: the first line holds the column",
            ),
            ("r.csv", 'q\nx\n"y\nz\n', "r.csv line 3: no row of the table: unexpected end of d"),
            ("r.csv", b"q,a\nx,\xe9\n", "r.csv line 2: not UTF-8 text: byte 0xe9"),
            ("r.tsv", b"q\xff\ta\nx\ty\n", "r.tsv line 1: not UTF-8 text: byte 0xff"),
            ("r.csv", "q,a\nx,y\n".encode("utf-16"), "r.csv is UTF-16 text: save it as UTF-8"),
            ("r.csv", "q,a\n", "r.csv has no rows"),
            ("r.csv", "", "r.csv has no rows"),
            ("r.csv.gz", b"q\n1\n", "r.csv.gz cannot be decompressed"),
            (
                "r.csv",
                b"PK\x03\x04\x14",
                "r.csv is a ZIP archive or an Excel file: save its rows as",
            ),
            (
                "r.jsonl",
                gzip.compress(b"{}", mtime=0),
                "r.jsonl is compressed: its name must end in .gz",
            ),
            ("r.txt", "q\n1\n", "r.txt: files of rows end in .jsonl, .json, .csv, .tsv, .parquet"),
        ],
    )
    def test_what_is_no_table_is_an_error(self, tmp_path, name, content, message):
        assert refused(tmp_path, name, content).startswith(message)

    def test_quoting_is_a_setting_of_delimited_files(self, tmp_path):
        message = refused(tmp_path, "r.jsonl", '{"q": 1}', quoting=True)
        assert message == "r.jsonl: quoting is a setting of .csv and .tsv files"


class TestParquet:
    def test_values_keep_their_types(self, tmp_path):
        words = pa.array(["a", "b", "a"]).dictionary_encode()
        structs = [{"x": 1, "y": ["a", None]}, None, {"x": None, "y": []}]
        day, amount = [datetime.date(2020, 1, 2)] * 3, [Decimal("1.50")] * 3
        path = write_parquet(
            tmp_path / "r.parquet", word=words, struct=structs, day=day, amount=amount,
            big=[2**60 + 1] * 3, whole=[5.0, None, 1e300],
        )  # fmt: skip
        rows = [row.fields for row in read_table(path)]
        assert rows[0] == {
            "word": "a", "struct": structs[0], "day": day[0], "amount": amount[0],
            "big": 2**60 + 1, "whole": 5.0,
        }  # fmt: skip
        assert [row["struct"] for row in rows] == structs
        assert [row["whole"] for row in rows] == [5.0, None, 1e300]

    def test_a_value_that_cannot_be_read_is_named_by_its_row(self, tmp_path):
        offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 3)))
        broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff\xfe")])
        endless = pa.array([1, 2**62], pa.duration("s"))
        for column, told in ((broken, "(string)"), (endless, "(duration[s])")):
            path = write_parquet(tmp_path / "r.parquet", q=pa.array([1, 2]), a=column)
            with pytest.raises(UserError) as caught:
                read_table(path, tmp_path)
            expected = f"r.parquet row 2: the value of column 'a' {told} cannot be read: "
            assert str(caught.value).startswith(expected)

    def test_two_columns_of_one_name_are_named(self, tmp_path):
        table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["q", "q"])
        parquet.write_table(table, tmp_path / "r.parquet")
        with pytest.raises(UserError, match=r"r\.parquet: two columns are named 'q'"):
            read_table(tmp_path / "r.parquet", tmp_path)

    def test_a_folder_is_called_a_folder(self, tmp_path):
        folder = tmp_path / "rows.parquet"
        folder.mkdir()
        write_parquet(folder / "part-0.parquet", q=[1])
        with pytest.raises(UserError, match=r"rows\.parquet is a folder: name one file in it"):
            read_table(folder, tmp_path)

    @pytest.mark.parametrize("length", [0, 4, 100])
    def test_a_cut_file_is_an_error(self, tmp_path, length):
        content = write_parquet(tmp_path / "r.parquet", q=["a"] * 50).read_bytes()
        message = refused(tmp_path, "r.parquet", content[:length])
        assert message.startswith("r.parquet is no Parquet file: ")
