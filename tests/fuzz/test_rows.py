"""Rows of data files: what cannot be read or used is refused with its place."""

from __future__ import annotations

import datetime
import decimal
import io
import json

import pytest
from hypothesis import strategies as st

TASK = """
name = "asked"
[source]
train = "{file}"
test_every = 2
[example]
prompt = "{{{{ question }}}}?"
answer = "{{{{ answer }}}}"
[scoring]
mode = "{mode}"
"""
GOOD = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(12)]
WORDS = [
    "", "\ud800", "a\udc00b", "\0", "\x1b[31m", "\u202e", "x" * 5000, "<|im_end|>", "\ufeff", "  ",
    "<|im_start|>assistant\n", "\u200b", "<think>", "</think>x", "\r\n", "\x85", "a\u0301" * 50,
]  # fmt: skip
RAW = [
    b"", b"\n\n", b"[", b"[]", b"[1", b"[{}", b"{}",
    b'{"question":1e999,"answer":"a"}', b"null",
    b'{"question":NaN,"answer":"a"}', b'{"question":' + b"[" * 50000, b"[" + b'{"a":' * 20000,
    b'{"question":"a","question":"b","answer":"c"}', b"\xff\xfe",
    b'[{"question":"a","answer":"b"},]',
    b'{"question":"\\ud800","answer":"x"}', b'{"question":1' + b"0" * 5000 + b',"answer":"x"}',
    b'["a"]', b'{"question":"\\u0000","answer":"x"}', b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1",
    b'"' * 9999, b"\0" * 99, b"\xef\xbb\xbf", b'a,"b\n', b'"a"b,c\n', b"\t\t\t\n", b",,,,\n",
]  # fmt: skip


@pytest.fixture
def ask(command):
    """Validates a task with these rows and starts a run with it; both must say the same."""

    def validate_and_run(file: str, mode: str = "teacher_forced") -> bool:
        command.write("task.toml", TASK.format(file=file, mode=mode))
        validated = command("tasks", "validate", "task.toml")
        ended = command("run", "--tasks", "task.toml", "--steps", 2, "--quiet", "--out", "results")
        assert (validated.code == 0) == ended.started, (validated, ended)
        return ended.started

    return validate_and_run


def test_json(fuzz, hostile, command, ask):
    values = hostile.json_value | st.sampled_from(WORDS)
    rows = st.fixed_dictionaries({"question": values, "answer": values}) | values
    kinds = st.sampled_from(["rows.jsonl", "rows.json", "array.json"])

    @fuzz(60, st.lists(rows, max_size=3), kinds)
    def case(drawn, kind):
        lines = [json.dumps(row) for row in [*GOOD, *drawn]]
        is_array = kind == "array.json"
        command.write(kind, f"[{','.join(lines)}]" if is_array else "\n".join(lines))
        ask(kind)


def test_bytes(fuzz, command, ask):
    kinds = st.sampled_from([
        "rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz",
        "rows.txt", "rows.npz",
    ])  # fmt: skip
    separators = {"rows.csv": b"question,answer\n", "rows.tsv": b"question\tanswer\n"}
    lines = b"\n".join(json.dumps(row).encode() for row in GOOD) + b"\n"

    @fuzz(100, st.binary(max_size=60) | st.sampled_from(RAW), kinds)
    def case(content, kind):
        before = lines if kind == "rows.jsonl" else separators.get(kind, b"")
        command.write(kind, before + content)
        ask(kind)


def test_delimited(fuzz, command, ask):
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    rows = st.lists(st.lists(texts, max_size=4), min_size=1, max_size=6)

    @fuzz(100, rows, st.sampled_from(",\t"), st.sampled_from(['"', "", '""']), st.booleans())
    def case(drawn, separator, quote, has_head):
        head = f"question{separator}answer\n" if has_head else ""
        good = "".join(f"q{i}{separator}a{i}\n" for i in range(12)) if has_head else ""
        body = "\n".join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in drawn)
        file = "rows.csv" if separator == "," else "rows.tsv"
        command.write(file, (head + good + body).encode())
        ask(file)


def _columns() -> dict:
    import pyarrow as pa

    n = range(12)
    offsets = b"".join((2 * i).to_bytes(4, "little") for i in range(13))
    broken = [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * 12)]
    return {
        "text": pa.array([f"t{i}" for i in n]),
        "integers": pa.array(n),
        "nan": pa.array([float("nan")] * 12),
        "bytes": pa.array([b"\xff%d" % i for i in n]),
        "dates": pa.array([datetime.date(2020, 1, 1 + i) for i in n]),
        "times": pa.array([datetime.datetime(2020, 1, 1 + i) for i in n]),
        "late": pa.array([2**62] * 12, pa.timestamp("us")),
        "nanoseconds": pa.array([2**62 + i for i in n], pa.timestamp("ns")),
        "durations": pa.array([2**62] * 12, pa.duration("s")),
        "decimals": pa.array([decimal.Decimal(i) for i in n]),
        "long decimals": pa.array([decimal.Decimal(10**60 + i) for i in n], pa.decimal256(70)),
        "lists": pa.array([["a", "b"]] * 12),
        "dictionaries": pa.array([{"a": i} for i in n]),
        "nulls": pa.nulls(12),
        "categories": pa.array([f"x{i}" for i in n]).dictionary_encode(),
        "maps": pa.array([[("k", i)] for i in n], pa.map_(pa.string(), pa.int32())),
        "booleans": pa.array([True] * 12),
        "clock": pa.array([datetime.time(1, i) for i in n]),
        "no UTF-8": pa.Array.from_buffers(pa.string(), 12, broken),
    }


def test_parquet(fuzz, command, ask):
    import pyarrow as pa
    from pyarrow import parquet

    columns = _columns()
    kinds = st.sampled_from(sorted(columns))
    changes = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3)

    @fuzz(100, kinds, kinds, changes, st.floats(0.01, 1) | st.just(1.0))
    def case(question, answer, changed, kept):
        file = io.BytesIO()
        table = {"question": columns[question], "answer": columns[answer]}
        parquet.write_table(pa.table(table), file)
        content = bytearray(file.getvalue())
        for place, byte in changed:
            content[int(place * (len(content) - 1))] = byte
        command.write("rows.parquet", bytes(content[: int(kept * len(content))]))
        ask("rows.parquet")


def test_readers(fuzz, hostile, tmp_path):
    """The readers by themselves, on more and stranger bytes than a whole command has time for."""
    from epi_bench.errors import UserError
    from epi_bench.task.rows.tables import read_table

    content = st.one_of(
        st.binary(max_size=200),
        st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(RAW),
        st.lists(st.sampled_from(RAW), max_size=4).map(b"\n".join),
        hostile.json_value.map(lambda value: json.dumps(value).encode()),
    )
    kinds = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.json.gz"])

    @fuzz(500, content, kinds, st.none() | st.booleans())
    def case(drawn, kind, quoting):
        path = tmp_path / kind
        path.write_bytes(drawn)
        try:
            rows = read_table(path, tmp_path, quoting)
        except UserError as error:
            assert str(error).startswith(kind)
            return
        assert rows
        assert all(row.origin.startswith(kind) for row in rows)
