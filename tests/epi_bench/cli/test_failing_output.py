"""The screen is not the result: whatever becomes of the output, a command does its work."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from epi_bench.cli.app import main
from epi_bench.results.leaderboard import publish


class Leaving(io.StringIO):
    """A stream that fails from its second line on."""

    encoding = "utf-8"

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if "\n" in self.getvalue():
            raise self.error
        return super().write(text)


GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def call(monkeypatch):
    """The command line in this process, with these streams; the exit code."""

    def call_main(arguments, stdout, stderr=None):
        monkeypatch.setattr(sys, "argv", ["epi-bench", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", stdout)
        if stderr is not None:
            monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return call_main


@pytest.fixture
def board(tmp_path, make_run):
    for name in ("epi", "full_sft"):
        for seed in (0, 1):
            publish(make_run(name, seed=seed), tmp_path)
    return tmp_path


LISTINGS = [
    ["--help"],
    ["tasks", "list"],
    ["strategies", "show", "epi"],
    ["settings"],
    ["settings", "--format", "json"],
    *(["leaderboard", "BOARD", "--format", f] for f in ("table", "markdown", "csv", "json")),
    *(["compare", "epi", "--board", "BOARD", "--format", f] for f in ("table", "csv", "json")),
]


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_the_reader_of_a_listing_may_leave(arguments, call, board):
    errors = io.StringIO()
    arguments = [board if word == "BOARD" else word for word in arguments]
    assert call(arguments, Leaving(GONE), errors) == 0
    assert errors.getvalue() == ""


@pytest.mark.parametrize("arguments", LISTINGS[-4:-2], ids=" ".join)
def test_a_listing_that_could_not_be_written_is_a_line_and_code_1(arguments, call, board):
    errors = io.StringIO()
    arguments = [board if word == "BOARD" else word for word in arguments]
    output = Leaving(FULL)
    output.write("\n")
    assert call(arguments, output, errors) == 1
    assert errors.getvalue() == (
        "epi-bench: the output could not be written: No space left on device\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_every_listing_fits_a_narrow_encoding(arguments, encoding, call, board):
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    arguments = [board if word == "BOARD" else word for word in arguments]
    assert call(arguments, output) == 0
    shown = raw.getvalue().decode(encoding)
    assert shown
    if arguments[-1] == "json":
        json.loads(shown)


@pytest.mark.parametrize(("error", "code"), [(GONE, 0), (FULL, 1)])
def test_a_run_leaves_its_record_whatever_becomes_of_its_output(
    error, code, call, tmp_path, toy_model, toy_tasks
):
    small = ["--model", toy_model, "--plugin", toy_tasks, "--tasks", "toy_choice", "--steps", 1,
             "--batch-size", 2, "--max-length", 64]  # fmt: skip
    out = ["run", "--strategy", "full_sft", *small, "--out", tmp_path]
    assert call(out, Leaving(error), Leaving(error)) == code
    [record] = tmp_path.glob("runs/*/record.json")
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.parametrize(
    "arguments",
    [["run", "--data-dir"], ["run", "--out"], ["leaderboard"], ["inspect"], ["tasks", "validate"]],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_one_line(arguments, call):
    errors = io.StringIO()
    assert call([*arguments, "n" * 300], io.StringIO(), errors) == 2
    assert errors.getvalue().count("\n") == 1
    assert "File name too long" in errors.getvalue()


def test_a_user_error_keeps_its_code_where_nobody_hears_it(call):
    errors = Leaving(GONE)
    errors.write("\n")
    assert call(["run", "--strategy", "nope"], io.StringIO(), errors) == 2


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [("| head -1", 0, ""), ("> /dev/full", 1, "could not be written"), (">&-", 0, "")],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_shell_sees_no_traceback(redirection, code, said):
    command = f'set -o pipefail; "{sys.executable}" -m epi_bench tasks list {redirection}'
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
