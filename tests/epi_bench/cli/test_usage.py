"""A wrong flag or command is one line with the right one, and exit code 2."""

from __future__ import annotations

import sys

import pytest

from epi_bench.cli.app import main


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def call_main(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["epi-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("epi-bench: ")
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return error.removeprefix("epi-bench: ").rstrip("\n")

    return call_main


WORDS = {
    "--lr": "--learning-rate",
    "--epoch": "--epochs",
    "--num-train-epochs": "--epochs",
    "--max-steps": "--steps",
    "--max-seq-length": "--max-length",
    "--per-device-train-batch-size": "--batch-size",
    "--per_device_eval_batch_size": "--evaluation-batch-size",
    "--gradient-accumulation-steps": "--accumulation",
    "--warmup-ratio": "--warmup-share",
    "--lr-scheduler-type": "--decay",
    "--max-grad-norm": "--max-gradient-norm",
    "--model-name-or-path": "--model",
    "--torch-dtype": "--dtype",
    "--bf16": "--autocast",
    "--optim": "--optimizer",
    "--output-dir": "--out",
    "--overwrite-output-dir": "--force",
    "--dataset": "--tasks",
    "--learning_rate": "--learning-rate",
    "--LR": "--learning-rate",
    "-lr": "--learning-rate",
    "--num-workers": "--jobs",
}


@pytest.mark.parametrize(("word", "flag"), WORDS.items(), ids=WORDS)
def test_words_of_other_programs_are_answered_with_the_flag(word, flag, call):
    assert call("run", word, "1") == f"run has no flag {word}: did you mean {flag}?"
    assert call("run", f"{word}=1") == f"run has no flag {word}: did you mean {flag}?"


def test_suggestions_come_from_the_flags_of_the_command(call):
    assert (
        call("run", "--stratgy", "epi")
        == "run has no flag --stratgy: did you mean --strategy or --stream?"
    )
    assert (
        call("profile", "--lenght", "8") == "profile has no flag --lenght: did you mean --length?"
    )
    assert call("run", "--lenght", "8").endswith("did you mean --max-length?")
    assert call("profile", "--lr", "1") == "profile has no flag --lr: see epi-bench profile --help"
    assert call("run", "--xyzzy") == "run has no flag --xyzzy: see epi-bench run --help"


def test_other_mistakes_are_one_line_too(call):
    assert call("runn").startswith("unknown command 'runn': did you mean 'run'")
    assert call("strategies", "shw").startswith("unknown command 'shw': did you mean 'show'")
    assert call("--verson").startswith("epi-bench has no flag --verson: did you mean --version?")
    assert call("run", "--steps", "many").startswith("--steps: input should be a valid integer")
    assert call("leaderboard", "--format", "x").startswith("--format: 'x' is not one of 'table'")
    assert "--steps" in call("run", "--steps")


def test_second_names_of_flags_work_and_are_not_shown(call):
    for command in ("run", "profile"):
        for name in ("--strategies", "--strategy", "-s"):
            assert call(command, name, "epy").startswith("unknown strategy 'epy'")
    assert call("run", "--strategies=epy").startswith("unknown strategy 'epy'")
    for name in ("--out", "--output"):
        assert call("run", name, "elsewhere", "-s", "epy").startswith("unknown strategy 'epy'")
        assert call("inspect", "nowhere", name, "mask.png").startswith("no record at nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "lora", "--set", "epi.x=1"],
         "epi is not among the strategies of this run (lora): add epi to strategy.name (--strategy)"
         ", or leave the option epi.x out"),
        (["--strategy", "lora,ewc", "--set", "epi.x=1"],
         "epi is not among the strategies of this run (lora, ewc): "),
        (["--set", "lora.rank=4"], "lora is not among the strategies of this run (epi): "),
        (["--set", "lorra.rank=4"], "unknown strategy 'lorra': did you mean 'lora'"),
        (["--steps", "3", "--epochs", "1"],
         "give either training.steps (--steps) or training.epochs (--epochs)"),
        (["--data-dir", "nowhere"], "nowhere does not exist: check data_dir (--data-dir)"),
        (["--judge-url", "http://h/v1"],
         "a judge needs an address and a model: judge.model (--judge-model) missing"),
        (["--master-weights", "none"], "set model.dtype (--dtype) to bfloat16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_messages_of_the_core_gain_the_flag(arguments, message, call):
    assert message in call("run", *arguments)
