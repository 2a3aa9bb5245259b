"""Output that fails stops nothing: pipes without a reader, full disks, narrow encodings."""

from __future__ import annotations

import errno
import io
import json
import os
import sys

import pytest
from rich.console import Console

from epi_bench.tables.standard_output import (
    PLAIN,
    LastingStream,
    escaped,
    lasting_output,
    reason_of,
)


class Failing(io.RawIOBase):
    """Takes some bytes and then fails."""

    def __init__(self, error, takes=0):
        self.error, self.takes, self.taken = error, takes, b""

    def writable(self):
        return True

    def write(self, content):
        if len(self.taken) >= self.takes:
            raise self.error
        self.taken += bytes(content)
        return len(content)


def failing_text(error, takes=0):
    raw = Failing(error, takes)
    return raw, io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EIO, "Input/output error"), True),
    ],
)
@pytest.mark.parametrize("how", ["print", "rich"])
def test_an_error_of_the_stream_is_kept_and_not_raised(error, lost, how, monkeypatch):
    raw, text = failing_text(error, takes=1)
    monkeypatch.setattr(sys, "stdout", text)
    show = print if how == "print" else Console().print
    with lasting_output() as output:
        for line in ("first", "second", "third"):
            show(line)
            sys.stdout.flush()
        assert output.failure is error
        assert output.has_lost_text is lost
    assert raw.taken.decode() == "first\n"
    assert sys.stdout is text
    raw.takes = 100  # what is still held back must not fail when the process ends
    text.close()


def test_a_closed_stream_is_a_failure_and_not_an_error():
    text = io.StringIO()
    text.close()
    output = LastingStream(text)
    print("lost", file=output)
    assert output.has_lost_text
    assert "closed" in reason_of(output.failure)


def test_a_process_without_standard_output_writes_nowhere(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with lasting_output() as output:
        print("·")
        assert not output.isatty()
        assert output.failure is None
    assert sys.stdout is None


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "3 ± 1 · é ─┼ \\ud800"),
        ("latin-1", "3 ± 1 · é -+ \\ud800"),
        ("ascii", "3 ~ 1 - \\u00e9 -+ \\ud800"),
    ],
)
def test_what_an_encoding_lacks_is_written_plainly(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with lasting_output():
        print("3 ± 1 · é ─┼ \ud800")
    assert raw.getvalue().decode(encoding) == shown + "\n"
    assert sys.stdout.errors == "strict"


def test_a_stand_in_is_one_character_so_that_tables_stay_aligned():
    assert {len(sign) for sign in PLAIN.values()} == {1}
    assert all(sign.isascii() for sign in PLAIN.values())


def test_escaped_json_says_the_same():
    document = json.dumps({"é": "– 😀"}, ensure_ascii=False)
    assert escaped(document).isascii()
    assert json.loads(escaped(document)) == {"é": "– 😀"}


def test_a_missing_descriptor_is_not_left_to_the_next_file(tmp_path):
    program = (
        "from epi_bench.tables import lasting_output\n"
        "with lasting_output():\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    raise SystemExit(file.fileno())"
    )
    child = os.spawnl(
        os.P_WAIT, "/bin/sh", "sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program
    )
    assert child > 2
