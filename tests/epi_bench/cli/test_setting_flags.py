"""Flags come from the fields: each sets its setting, and the help shows what the field says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from epi_bench.cli.app import app
from epi_bench.cli.flag_names import ARGUMENT_FLAGS, message_of, with_flags
from epi_bench.cli.setting_flags import SettingFlags, takes_settings
from epi_bench.errors import UserError
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.settings import all_settings

COMMANDS = typer.main.get_command(app).commands

EARLIER_FLAGS = """
--strategy -s --set --plugin --stream --order --stream-option --seed --seeds --model --revision
--dtype --tasks --data-dir --train-examples --test-examples --max-length --mask-history
--no-mask-history --steps --epochs --batch-size --accumulation --learning-rate --optimizer
--autocast --master-weights --gradient-checkpointing --no-gradient-checkpointing
--evaluation-batch-size --probe-examples --max-new-tokens --config --references --no-references
--allow-code-execution --judge-url --judge-model --judge-prompts --judge-rate --jobs --force --out
--save-model --log-predictions --publish --no-publish --quiet
"""


def _flags(command):
    return {f for p in COMMANDS[command].params for f in (*p.opts, *p.secondary_opts)}


def _given(*arguments):
    """What a command that takes every setting receives."""
    received = []
    small = typer.Typer()

    @small.command()
    @takes_settings()
    def command(*, settings: SettingFlags) -> None:
        received.append(settings)

    result = CliRunner().invoke(small, list(arguments))
    assert result.exit_code == 0, result.output
    return received[0]


def test_run_has_a_flag_for_every_setting_and_keeps_those_it_had():
    flags = _flags("run")
    assert {setting.flag_name for setting in all_settings().values()} <= flags
    assert set(EARLIER_FLAGS.split()) <= flags


OTHER_VALUES = {"str": "text", "int": "9", "float": "0.25"}


ALONE_REFUSED = {
    "training.master_weights",  # needs bfloat16 weights
    "adapter.rank",  # need an adapter
    "adapter.alpha",
    "adapter.target_modules",
}


@pytest.mark.parametrize(
    "name", [name for name, setting in all_settings().items() if setting.flag.made_from_field]
)
def test_a_flag_sets_its_setting_and_nothing_else(name):
    setting = all_settings()[name]
    kind = getattr(setting.annotation, "__name__", "")
    section, _, key = name.rpartition(".")
    if setting.annotation is bool:
        expected = not setting.field.default
        arguments = ["--no-" * (not expected) + setting.flag_name[2 * (not expected) :]]
    else:
        text = setting.choices[-1] if setting.choices else OTHER_VALUES[kind]
        arguments = [setting.flag_name, text]
        expected = text if setting.choices else setting.annotation(text)
    given = _given(*arguments)
    assert given == ({section: {key: expected}} if section else {key: expected})
    if name not in ALONE_REFUSED:
        spec = complete_spec(given)
        assert getattr(getattr(spec, section) if section else spec, key) == expected


def test_flags_that_are_left_out_give_nothing():
    assert _given() == {}


def test_help_shows_every_default_and_range():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    words = " ".join(shown.replace("│", " ").split())
    for setting in all_settings().values():
        if setting.name in ("strategy.options", "stream.options"):
            continue
        default = {"true": "on", "false": "off"}.get(setting.default, setting.default)
        limits = f"{setting.limits}; " if setting.limits else ""
        assert f"[{limits}default: {default}]" in words, setting.name


def test_profile_shares_the_flags_of_settings():
    shared = {"--model", "--dtype", "--optimizer", "--autocast", "--master-weights", "--threads"}
    assert shared <= _flags("profile")
    assert "--learning-rate" not in _flags("profile")


def test_a_name_is_followed_by_its_flag():
    both = "lower data.max_length or evaluation.max_new_tokens"
    assert with_flags(both) == (
        "lower data.max_length (--max-length) or evaluation.max_new_tokens (--max-new-tokens)"
    )
    assert with_flags("training.steps=0: must be 1") == "training.steps=0: must be 1 (--steps)"
    assert with_flags("in a/data.max_length/b and data.max_lengths") == (
        "in a/data.max_length/b and data.max_lengths"
    )
    error = UserError("folder x does not exist: check data_dir", setting="data_dir")
    assert message_of(error) == "folder x does not exist: check data_dir (--data-dir)"
    assert with_flags("check data_dir") == "check data_dir"  # an everyday word may mean itself
    assert with_flags(message_of(error), error.settings) == message_of(error)


def test_every_argument_with_a_flag_has_that_flag():
    flags = _flags("run") | _flags("profile")
    assert set(ARGUMENT_FLAGS.values()) <= flags


def test_the_core_names_no_flag():
    """``grep`` over the source: what the core says is read by users of the Python API too."""
    from pathlib import Path

    core = Path(__file__).parents[3] / "epi_bench"
    own = {f for command in ("run", "profile") for f in _flags(command) if f.startswith("--")}
    declared = core / "spec" / "run_spec.py"
    commands = core / "evaluation" / "judge" / "settings.py", core / "task" / "rows" / "hub.py"
    parsed = core / "api" / "selection.py", core / "runs" / "many_runs.py"
    wrong = []
    for path in core.rglob("*.py"):
        if path.parent.name == "cli" or path in (declared, *commands, *parsed):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if any(f"{flag} " in line or f'{flag}"' in line for flag in own) and "``" not in line:
                wrong.append(f"{path.name}:{number}: {line.strip()}")
    assert wrong == []


def test_help_imports_no_torch():
    program = (
        "import sys\nfrom epi_bench.cli.app import app\n"
        "try: app(['run', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("[]"), done.stderr
