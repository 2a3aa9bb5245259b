"""Names complete in the shell, through the protocol that the shell's script speaks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from epi_bench.cli.app import main


@pytest.fixture
def complete(monkeypatch, capsys, tmp_path):
    """What bash is offered for the last word of a command line."""

    def completions(line):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["epi-bench"])
        monkeypatch.setenv("_EPI_BENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"epi-bench {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(f"epi-bench {line}x".split()) - 1))
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out.split()

    return completions


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("run --strategy l2", ["l2_sp"]),
        ("run --strategy epi,ran", ["epi,random_mask"]),
        ("run -s al", ["all"]),
        ("run -s epi,pen", ["epi,penalty"]),
        ("run --stream se", ["sequential"]),
        ("run --optimizer ad", ["adafactor", "adamw"]),
        ("run --order r", ["random", "reversed"]),
        ("run --decay co", ["constant", "cosine"]),
        ("run --tasks mini_math,mini_ch", ["mini_math,mini_chat"]),
        ("run --tasks cl", ["cl4"]),
        ("run --learning-r", ["--learning-rate"]),
        ("profile --strategy full", ["full_sft"]),
        ("strategies show l2", ["l2_sp"]),
        ("tasks show gsm", ["gsm8k"]),
        ("sett", ["settings"]),
    ],
)
def test_names_are_completed(line, offered, complete):
    assert complete(line) == offered


def test_task_files_are_completed_beside_names(complete, tmp_path):
    (tmp_path / "tickets.toml").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "other.toml").touch()
    assert complete("run --tasks tick") == ["tickets.toml"]
    assert complete("run --tasks tickets.toml,deep/o") == ["tickets.toml,deep/other.toml"]
    assert complete("tasks show ./de") == ["./deep/"]


def test_completion_imports_no_torch(tmp_path):
    program = (
        "import sys\nfrom epi_bench.cli.app import main\nsys.argv = ['epi-bench']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    words = {"COMP_WORDS": "epi-bench run --strategy e", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **words, "_EPI_BENCH_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    *offered, heavy = done.stdout.split()
    assert {"epi", "ewc"} <= set(offered)
    assert heavy == "[]", done.stderr


def test_no_file_is_offered_whose_name_a_terminal_would_obey(complete, tmp_path):
    for name in ("plain.toml", "wild\x1b[31m.toml", "turned\u202e.toml"):
        (tmp_path / name).touch()
    assert complete("tasks show ./") == ["./plain.toml"]
