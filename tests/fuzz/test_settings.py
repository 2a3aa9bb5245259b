"""Settings from flags and files: whatever they hold, one line and code 2, or a run that starts."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import strategies as st

ROWS = "\n".join(json.dumps({"q": f"question {i}", "a": f"answer {i}"}) for i in range(12))
TASK = """
name = "asked"
[source]
train = "rows.jsonl"
test_every = 3
[example]
prompt = "{{ q }}?"
answer = "{{ a }}"
[scoring]
mode = "teacher_forced"
"""
QUIET = ("--quiet", "--out", "results")


@pytest.fixture
def task(command):
    """A task file with a dozen rows."""
    command.write("rows.jsonl", ROWS)
    return command.write("asked.toml", TASK)


@pytest.fixture
def run_file(task):
    """The settings of a run, as its ``run.toml`` holds them."""
    from epi_bench.spec.defaults import complete_spec

    values = {"data": {"tasks": [str(task)]}, "training": {"steps": 2}}
    spec = complete_spec(values).model_dump(mode="json", exclude_none=True)
    return {"complete": True, **spec, "locations": {"plugins": [], "task_files": [str(task)]}}


def places(run_file) -> list[tuple[str, ...]]:
    """Every place of a file that may be overwritten, and some that there are not."""
    sections = {name: value for name, value in run_file.items() if isinstance(value, dict)}
    return [
        *((name,) for name in run_file),
        *((name, key) for name, section in sections.items() for key in section),
        ("unknown",), ("data", "unknown"), ("strategy", "options"),
        ("strategy", "options", "ratio"),
        ("stream", "options"), ("stream", "options", "mixing"), ("model", "revision"),
        ("data", "options"), ("data", "options", "asked"), ("training", "epochs"),
        ("locations", "data_dir"), ("locations", "unknown"), ("evaluation", "max_new_tokens"),
    ]  # fmt: skip


def test_settings_files(fuzz, hostile, command, run_file):
    raw = st.sampled_from(hostile.raw_toml)
    anywhere = st.sampled_from(places(run_file))
    changes = st.lists(
        st.tuples(
            anywhere, st.tuples(st.just(False), hostile.toml_value) | st.tuples(st.just(True), raw)
        ),
        min_size=1,
        max_size=3,
    )

    @fuzz(350, changes)
    def case(drawn):
        content, unwritten = copy.deepcopy(run_file), {}
        for place, (is_raw, value) in drawn:
            if is_raw:
                unwritten[place] = value
            else:
                hostile.put(content, place, value)
        command.write("run.toml", hostile.toml(content, unwritten))
        command("run", "--config", "run.toml", *QUIET)


def test_files_that_are_no_toml(fuzz, hostile, command):
    parts = st.binary(max_size=60) | hostile.text.map(lambda text: text.encode("utf-8"))
    known = st.sampled_from([
        b"a=" + b"[" * 5000, b"x=" + b"{a=" * 3000, b"a." * 5000 + b"b=1", b"seed=1" + b"0" * 5000,
        b"\xef\xbb\xbfseed=-1", b"seed=-1\r\n", b"seed=1\0", b"\xff\xfe",
        b"[strategy]\nname=\"\\ud800\"",
        b"strategy=1", b"[[locations]]\na=1", b"locations=[1]", b"training={steps=1,steps=2}",
    ])  # fmt: skip

    @fuzz(100, parts | known)
    def case(content):
        command.write("run.toml", content)
        command("run", "--config", "run.toml", *QUIET)
        assert command("tasks", "validate", "run.toml").code == 2


def test_flags(fuzz, hostile, command, task):
    from epi_bench.spec.settings import all_settings

    flags = [setting.flag_name for setting in all_settings().values()]
    flags += ["--seeds", "--jobs", "--data-dir", "--config", "--plugin", "--save-model",
              "--strategy",
              "--judge-url", "--judge-model", "--judge-rate", "--judge-prompts", "--set",
              "--task-option", "--stream-option", "--unknown"]  # fmt: skip
    given = st.lists(st.tuples(st.sampled_from(flags), hostile.text), min_size=1, max_size=3)

    @fuzz(250, given)
    def case(drawn):
        drawn = [(flag, value) for flag, value in drawn if (flag, value) != ("--data-dir", "..")]
        flat = [part for pair in drawn for part in pair]
        command("run", "--tasks", task, "--steps", "2", *QUIET, *flat)


def test_options_of_strategies(fuzz, hostile, command, task):
    from epi_bench.plugins.options import options_of
    from epi_bench.strategy.strategy import STRATEGIES

    known = [
        (name, option)
        for name in STRATEGIES.names()
        for option in [*options_of(STRATEGIES.get(name)), "unknown"]
    ]

    @fuzz(200, st.sampled_from(known), hostile.text, st.booleans())
    def case(option, value, is_bare):
        name, key = option
        assignment = f"{key if is_bare else f'{name}.{key}'}={value}"
        ended = command(
            "run", "--strategy", name, "--set", assignment, "--tasks", task, "--steps", "2", *QUIET
        )
        default = getattr(options_of(STRATEGIES.get(name)).get(key), "default", None)
        if value.strip() in ("nan", "inf", "-inf", "1e999") and not isinstance(default, str):
            assert not ended.started, f"{assignment} is no number that a strategy can use"


def test_seeds(fuzz, command, task):
    seeds = st.integers(-5, 2**130) | st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1, 2**64])

    @fuzz(40, seeds)
    def case(seed):
        command("run", "--tasks", task, "--steps", "2", "--seed", seed, "--order", "random", *QUIET)


OTHER_COMMANDS = (
    ("strategies", "show"), ("strategies", "list", "--plugin"), ("strategies", "list", "--format"),
    ("tasks", "show"), ("tasks", "validate"), ("tasks", "similarity"),
    ("tasks", "list", "--format"),
    ("tasks", "show", "mini_math", "--task-option"), ("tasks", "show", "mini_math", "--index"),
    ("tasks", "show", "mini_math", "--model"), ("streams", "show"), ("leaderboard",),
    ("leaderboard", "--track"), ("leaderboard", "--sort"), ("compare",), ("compare", "--board"),
    ("compare", "epi", "--metric"), ("inspect",), ("inspect", "--strategy"),
    ("settings", "--format"),
    ("profile", "--model"), ("plot", "matrix"), ("plot", "masks"), ("unknown",), ("--unknown",),
)  # fmt: skip


def test_every_other_command(fuzz, hostile, command):
    @fuzz(200, st.sampled_from(OTHER_COMMANDS), hostile.text)
    def case(words, value):
        command(*words, value)
