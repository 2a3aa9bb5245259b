"""A strategy that was begun by a command runs as it is, and one that is broken is found."""

from __future__ import annotations

import csv
import io
import runpy
import sys

import pytest

from epi_bench.cli.app import main

BROKEN = """
from epi_bench import Strategy, register_strategy


@register_strategy("broken_one")
class BrokenOne(Strategy):
    def gradients_ready(self, step):
        self.last = step.number * self.factor

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def finalize_model(self, model):
        raise ValueError("[red]gone\\x1b[31m")


@register_strategy("idle_one")
class IdleOne(Strategy):
    def __init__(self, late: int = 20) -> None:
        self.late = late

    def gradients_ready(self, step):
        if step.number > self.late:
            for parameter in step.model.parameters():
                parameter.grad.mul_(0.5)
"""


@pytest.fixture
def call(monkeypatch, tmp_path, capsys, forgotten_plugins):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call_with(*words):
        monkeypatch.setattr(sys, "argv", ["epi-bench", "strategies", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return call_with


@pytest.mark.parametrize("kind", ["plain", "mask", "penalty"])
def test_what_is_begun_passes_the_test_that_is_begun_with_it(kind, call, tmp_path, monkeypatch):
    code, out, _ = call("new", "my_own", "--kind", kind, "--out", "mine")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["my_own.py", "test_my_own.py"]
    assert "epi-bench strategies check mine/my_own.py" in out
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))  # as pytest does
    try:
        tests = runpy.run_path(str(tmp_path / "mine" / "test_my_own.py"))
    finally:
        sys.modules.pop("my_own", None)
    called = [test() for name, test in tests.items() if name.startswith("test_")]
    assert len(called) >= 2


def test_what_is_begun_passes_every_check_of_the_command(call):
    call("new", "my_own", "--out", "mine")
    code, out, error = call("check", "mine/my_own.py", "--format", "csv")
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["check", "passed", "what to do"]
    assert {row[1] for row in rows[1:]} == {"yes"}, out
    assert len(rows) > 10
    assert (code, error) == (0, "")
    assert "Say in one line what it does" in call("show", "my_own", "--plugin", "mine/my_own.py")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my-own"], "strategy name 'my-own' is not usable: use letters"),
        (["../own"], "is not usable"),
        (["class"], "is not usable"),
        (["_own"], "is not usable"),
        (["epi"], "there is a strategy 'epi' already"),
        (["mask"], "'mask' means several strategies"),
        (["there"], "there.py is there already: choose another name or another folder"),
        (["tested"], "test_tested.py is there already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(
    arguments, message, call, tmp_path
):
    for name in ("there.py", "test_tested.py"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    code, _, error = call("new", *arguments)
    assert code == 2
    assert message in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test_tested.py", "there.py"]
    assert all(p.read_text(encoding="utf-8") == "mine" for p in tmp_path.iterdir())


def test_every_check_of_every_strategy_of_a_file_is_shown(call, tmp_path):
    (tmp_path / "two.py").write_text(BROKEN, encoding="utf-8")
    code, out, error = call("check", "two.py", "--set", "broken_one.factor=2", "--format", "csv")
    assert code == 1
    rows = {(row[0], row[1]): row[2:] for row in list(csv.reader(io.StringIO(out)))[1:]}
    passed, remedy = rows["broken_one", "hooks"]
    assert passed == "no"
    assert remedy == "ValueError: [red]gone\\x1b[31m"
    assert rows["broken_one", "names"] == ["yes", ""]
    assert "keeps last, which its state_dict does not return" in rows["broken_one", "state"][1]
    idle = [cells for (name, _), cells in rows.items() if name == "idle_one"]
    assert len(idle) == len(rows) / 2
    assert idle == [["yes", ""]] * len(idle)
    assert "warning: idle_one: on the toy tasks it ends as full fine-tuning does" in error
    assert "within 6 steps" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epy"], "unknown strategy 'epy': did you mean"),
        (["nowhere.py"], "nowhere.py does not exist"),
        (["task.py"], "task.py registers no strategy: mark its class with @register_strategy"),
        (["epi", "--set", "ratioo=1"], "did you mean 'ratio'"),
        (["epi", "--set", "ewc.strength=1"], "ewc is not among the strategies"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_code_2(arguments, message, call, tmp_path):
    (tmp_path / "task.py").write_text(
        "from epi_bench import ExperiencePlan, register_stream\n\n\n"
        '@register_stream("own_stream")\n'
        "def own_stream(tasks):\n"
        "    return [ExperiencePlan(task, (task,)) for task in tasks]\n",
        encoding="utf-8",
    )
    code, _, error = call("check", *arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
