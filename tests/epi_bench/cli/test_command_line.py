"""The command line as a user meets it: listings, wrong input, start-up, interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epi_bench.results.record.record_file import load_record

RUN = [sys.executable, "-m", "epi_bench"]


def call(*arguments, cwd=None, **environment):
    result = subprocess.run(
        [*RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def call_here(monkeypatch, capsys, tmp_path):
    """The same inside this process, in an empty folder: quicker, for what starts no run."""
    from epi_bench.cli.app import main

    def call_main(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["epi-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call_main


@pytest.fixture
def small(toy_model, toy_tasks):
    return ["--model", toy_model, "--plugin", toy_tasks, "--tasks", "toy_first,toy_choice",
            "--steps", 3, "--batch-size", 4, "--max-length", 64]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "epy"], "unknown strategy 'epy': did you mean"),
        (["--stream", "sequentail"], "unknown stream 'sequentail': did you mean 'sequential'?"),
        (["--tasks", "mini_meth"], "unknown task 'mini_meth': did you mean 'mini_math'"),
        (["--tasks", "mini_math,mini_math"], "a task is listed twice"),
        (["--set", "ratioo=0.3"], "did you mean 'ratio'"),
        (["--set", "ratio"], "'ratio' is not an assignment: write NAME=VALUE"),
        (["--set", "ratio=1.5"], "epi: ratio=1.5 must lie in [0, 1)"),
        (["--set", "ratio=much"], "ratio='much' is not a valid float"),
        (["--set", "lora.rank=4"], "lora is not among the strategies of this run (epi)"),
        (["--strategy", "epi,lora", "--set", "rank=4"], "say which one: --set epi.rank=4"),
        (["--stream-option", "mixing=concat"], "unknown option of stream 'sequential' 'mixing'"),
        (["--stream", "mixed", "--stream-option", "mixing=stir"], "is not a valid"),
        (["--stream", "mixed", "--stream-option", "weights=1,2"], "2 weights for 5 tasks"),
        (["--steps", "0"], "training.steps=0"),
        (
            ["--steps", "3", "--epochs", "1"],
            "give either training.steps (--steps) or training.epochs (--epochs)",
        ),
        (["--backend", "rey"], "unknown backend 'rey': did you mean 'ray'?"),
        (["--address", "auto"], "address (--address) is for runs on Ray: choose the backend"),
        (["--cpus-per-run", "2"], "cpus_per_run (--cpus-per-run) is for runs on Ray"),
        (["--backend", "ray", "--jobs", "2"], "leave jobs (--jobs) out"),
        (["--backend", "ray", "--gpus-per-run", "-1"], "gpus_per_run=-1 must be 0, a fraction"),
        (["--learning-rate", "-1"], "training.learning_rate=-1.0"),
        (["--model", "./nowhere"], "model folder nowhere does not exist"),
        (["--model", "nowhere.gguf"], "model file nowhere.gguf does not exist"),
        (["--data-dir", "nowhere"], "data folder nowhere does not exist"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--train-examples", "1000000"], "lower data.train_examples (--train-examples)"),
        (
            ["--seeds", "2", "--save-model", "model"],
            "save_model (--save-model) keeps one model, but 2 runs",
        ),
        (["--out", "/proc/nowhere"], "choose another folder with out (--out)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_with_the_remedy_and_code_2(
    arguments, message, call_here, tmp_path
):
    code, _, error = call_here("run", *arguments)
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert error.startswith("epi-bench: ")
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_all_leaves_out_what_would_be_full_fine_tuning_again():
    from epi_bench.api.selection import Selection

    def selected(stream, strategies="all", settings=()):
        given = {"stream": {"kind": stream}}
        selection = Selection(given, strategies, list(settings), None, [], 1, None, [], None)
        return [spec.strategy.name for spec in selection.specs()], selection.left_out

    everything, none = selected("sequential")
    some, left_out = selected("mixed")
    assert not none
    assert {"ewc", "replay", "static_mask"} <= set(left_out)
    assert sorted([*some, *left_out]) == everything
    assert "l2_sp" in selected("mixed", settings=["l2_sp.anchor=base"])[0]
    assert selected("mixed", "ewc,replay")[0] == ["ewc", "replay"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_wrong_for_every_strategy_is_said_once(jobs, call_here, small):
    strategies = ["--strategy", "full_sft,l2_sp", "--jobs", jobs]
    code, _, error = call_here("run", *strategies, *small, "--train-examples", 10**9, "--quiet")
    assert code == 2
    assert error.count("were asked for: lower data.train_examples (--train-examples)") == 1
    assert error.count("epi-bench: ") == 1


def test_what_runs_in_other_processes_warn_of_is_said_once(tmp_path, small, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    arguments = ["--strategy", "full_sft,l2_sp", "--steps", 1, "--jobs", 2]
    code, out, error = call("run", *small, *arguments, cwd=tmp_path)
    assert code == 0, error
    assert out.count("warning: ACCELERATE_DYNAMO_BACKEND=inductor has no effect") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nstepps = 3", "unknown setting 'training.stepps': did you mean"),
        ("[training\nsteps = 3", "is not a TOML file"),
        ("[locations]\ndata = 'x'", "unknown setting 'locations.data'"),
        ("[stream]\norder = 'sideways'", "stream.order='sideways'"),
    ],
)
def test_wrong_configuration_files_are_explained(text, message, call_here, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    code, _, error = call_here("run", "--config", "run.toml")
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_model_folders_that_lack_something_are_explained(tmp_path, toy_model, call_here):
    import shutil

    for missing, message in (
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no .safetensors weights"),
        ("tokenizer*", "has no tokenizer"),
    ):
        folder = tmp_path / missing.strip("*")
        shutil.copytree(toy_model, folder)
        for path in folder.glob(missing):
            path.unlink()
        code, _, error = call_here("run", "--model", folder, "--tasks", "mini_math")
        assert code == 2
        assert message in error


def test_code_is_run_only_with_permission(tmp_path, call_here, toy_model):
    stub = {"prompt": "def f(x):\n", "canonical_solution": "    return x\n", "entry_point": "f"}
    rows = [{"task_id": f"HumanEval/{n}", "test": "def check(f): ...", **stub} for n in range(9)]
    data = tmp_path / "data"
    (data / "humaneval").mkdir(parents=True)
    (data / "humaneval" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, error = call_here(
        "run", "--model", toy_model, "--tasks", "humaneval", "--data-dir", data, "--out", "results"
    )
    assert (code, error.count("\n")) == (2, 1)
    assert "'humaneval' is scored by running code that the model wrote" in error
    assert "--allow-code-execution" in error
    assert not (tmp_path / "results").exists()


PLUGIN = """
from epi_bench import (ExperiencePlan, Example, Strategy, Task, TaskCard, ask, register_strategy,
                       register_stream, register_task)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport no_such_module_anywhere\n", ":2 fails to import: ModuleNotFoundError"),
        ("import sys; sys.exit(0)", ":1 fails to import: SystemExit: 0"),
        (
            "raise ValueError('[red]a\\nb\\x1b[31m')",
            r":1 fails to import: ValueError: [red]a b\x1b",
        ),
        (f"{PLUGIN}@register_strategy('full_sft')\nclass A(Strategy): pass", "like the built-in"),
        (None, "does not exist"),
        ("", "registers nothing"),
    ],
)
@pytest.mark.parametrize("command", [["strategies", "list"], ["run"], ["streams", "list"]])
def test_a_plugin_file_that_fails_stops_every_command(
    command, text, message, call_here, tmp_path, forgotten_plugins
):
    if text is not None:
        (tmp_path / "broken.py").write_text(text)
    code, out, error = call_here(*command, "--plugin", "broken.py")
    assert code == 2
    assert error.startswith("epi-bench: plugin ")
    assert "broken.py" in error
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert out in ("", "starting\n")
    assert not (tmp_path / "runs").exists()


def test_text_of_plugins_is_shown_as_text(tmp_path, call_here, forgotten_plugins, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    wild = r"[red]x[/red] [/] [link=http://e]l[/link] \x1b[31mESC"
    (tmp_path / "wild.py").write_text(
        f"{PLUGIN}WILD = '{wild}'\n"
        "@register_strategy('wild')\nclass A(Strategy):\n    __doc__ = WILD\n"
        "    def __init__(self, share: float = 0.5) -> None: pass\n"
        "@register_stream('wild')\ndef wild(tasks, share=WILD): return []\nwild.__doc__ = WILD\n"
        "@register_task('wild')\nclass B(Task):\n"
        "    card = TaskCard(WILD, WILD, 'choice', 'acc', WILD)\n"
        "    def examples(self, split): return [Example(ask('q', 'a'), 'a', ('a', 'b'))]\n"
    )
    for command in ("strategies list", "strategies show wild", "streams list", "tasks list",
                    "tasks show wild"):  # fmt: skip
        code, out, error = call_here(*command.split(), "--plugin", "wild.py")
        assert (code, error) == (0, "")
        shown = re.sub(r"\W+", "", out)
        assert "redxred" in shown, command
        assert "\x1b" not in out


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("x=object()", "a record cannot keep x=<object"),
        ("x: float = float('nan')", "a record cannot keep x=nan"),
        ("x: 'Nope' = 1", "the types of the options of Mine cannot be read: NameError"),
        ("x: int", "x has no default, so it must be set"),
        ("x=1/0", "ZeroDivisionError"),
    ],
)
def test_options_that_cannot_be_used_are_a_user_error(
    signature, message, call_here, tmp_path, forgotten_plugins
):
    (tmp_path / "mine.py").write_text(
        f"{PLUGIN}@register_strategy('mine')\nclass Mine(Strategy):\n"
        f"    def __init__(self, {signature}): pass\n"
    )
    arguments = ["--plugin", "mine.py", "--strategy", "mine", "--tasks", "mini_math"]
    code, _, error = call_here("run", *arguments, "--train-examples", 5, "--test-examples", 5)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_listings_show_what_there_is():
    _, strategies, _ = call("strategies", "list")
    for name in ("epi", "full_sft", "static_mask", "random_mask", "inverted_mask", "lora", "ewc",
                 "l2_sp", "replay"):  # fmt: skip
        assert name in strategies
    _, tasks, _ = call("tasks", "list")
    for name in ("mini_math", "gsm8k", "code_alpaca", "ultrachat"):
        assert name in tasks
    _, streams, _ = call("streams", "list")
    assert "sequential" in streams
    _, mixed, _ = call("streams", "show", "mixed")
    assert "interleave_under" in mixed


def test_show_gives_hyperparameters_with_type_default_and_meaning():
    code, out, _ = call("strategies", "show", "epi")
    assert code == 0
    assert "2604.14010" in out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["ratio"])
    assert "float" in line
    assert "Share of all trained weights" in line


def test_task_show_marks_the_supervised_part():
    code, out, _ = call("tasks", "show", "mini_math")
    assert code == 0
    supervised = out[out.index("assistant\n") :]
    assert supervised.split("\n", 1)[1].startswith("⟦")
    assert "<|im_end|>⟧" in out


def test_no_supervision_of_the_question():
    _, out, _ = call("tasks", "show", "mini_chat")
    for part in out.split("⟦")[1:]:
        assert "user" not in part.split("⟧")[0]


def test_a_run_writes_its_files_and_repeats_from_its_own_configuration(tmp_path, small):
    code, out, error = call("run", *small, "--strategy", "full_sft", cwd=tmp_path)
    assert code == 0, error
    assert "Score matrix" in out
    assert "average accuracy" in out
    path = next((tmp_path / "runs").glob("*/record.json"))
    assert load_record(path).status == "finished"
    assert str(path.relative_to(tmp_path)) in out
    assert len(list((tmp_path / "results").glob("*/*.json"))) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"results", "runs"}  # not the published board
    code, out, error = call("run", "--config", path.with_name("run.toml"), cwd=tmp_path)
    assert code == 0, error
    assert "finished before" in out


def test_several_strategies_in_several_processes(tmp_path, small):
    arguments = ["--strategy", "full_sft,epi", "--seeds", 2, "--order", "random", "--jobs", 2]
    code, out, error = call("run", *small, *arguments, "--references", cwd=tmp_path)
    assert code == 0, error
    code, out, error = call("leaderboard", "--format", "json", cwd=tmp_path)
    assert code == 0, error
    assert out.count('"strategy"') >= 2
    records = [load_record(p) for p in (tmp_path / "results").glob("*/*.json")]
    assert len(records) == 4
    assert all(record.reference_scores for record in records)


def test_a_failing_strategy_gives_code_1_and_the_others_their_records(tmp_path, small):
    (tmp_path / "failing.py").write_text(
        "from epi_bench import Strategy, register_strategy\n"
        "@register_strategy('failing')\n"
        "class Failing(Strategy):\n"
        "    def end_experience(self, experience):\n"
        "        raise RuntimeError('broken on purpose')\n"
    )
    arguments = ["--plugin", "failing.py", "--strategy", "failing,full_sft"]
    code, _, error = call("run", *small, *arguments, cwd=tmp_path)
    assert code == 1
    assert "failing failed: RuntimeError: broken on purpose" in error
    statuses = sorted(load_record(p).status for p in (tmp_path / "runs").glob("*/record.json"))
    assert statuses == ["failed", "finished"]
    code, out, error = call("run", *small, *arguments, cwd=tmp_path)
    assert code == 1
    assert "failing failed before: RuntimeError: broken on purpose" in error
    assert "failing, seed 0: failed before, so it was not run again (--retry-failed" in out
    assert "full_sft, seed 0: finished before" in out
    code, out, error = call("run", *small, *arguments, "--retry-failed", cwd=tmp_path)
    assert code == 1
    assert "failing failed: RuntimeError: broken on purpose" in error
    assert "full_sft, seed 0: finished before" in out


def test_ctrl_c_leaves_no_record_and_the_same_command_finishes(tmp_path, small):
    command = [*RUN, "run", *map(str, small), "--steps", "2000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not any('"step"' in p.read_text() for p in tmp_path.rglob("events.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*record.json*"))
    code, _, error = call("run", *small, "--quiet", cwd=tmp_path)
    assert code == 0, error


def test_a_full_disk_is_one_line(tmp_path, small):
    """/dev/full refuses every byte; the record's folder stays without a record."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    code, _, error = call("run", *small, "--out", full, cwd=tmp_path)
    assert code == 2
    assert "cannot write results to /dev/full" in error


def test_help_and_leaderboard_import_nothing_heavy(tmp_path):
    heavy = "{'torch', 'transformers', 'datasets', 'avalanche', 'ray', 'peft'}"
    for arguments in ("['--help']", "['leaderboard', 'nowhere']", "['run', '--help']"):
        script = (
            "import sys\nfrom epi_bench.cli.app import app\n"
            f"try: app({arguments})\nexcept (SystemExit, Exception): pass\n"
            f"print('HEAVY', sorted({heavy} & set(sys.modules)))"
        )
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
        )
        assert "HEAVY []" in result.stdout
