"""Strategies and tasks that are defined in a notebook's cell: hashed from the text."""

from __future__ import annotations

import linecache
import subprocess
import sys
from types import ModuleType

import pytest

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import STRATEGIES

CELL = """
from epi_bench import Strategy, register_strategy

@register_strategy("half_step")
class HalfStep(Strategy):
    def gradients_ready(self, step):
        scale(step.model)
"""
HELPER = "SHARE = 0.5\n\ndef scale(model):\n    return SHARE\n"


@pytest.fixture
def run_cell(monkeypatch, forgotten_plugins):
    """Runs text as IPython does: in a ``__main__`` without a file, its lines kept in linecache."""
    session = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", session)
    cells = []

    def run(text):
        name = f"<ipython-input-{len(cells)}-{id(session)}>"
        cells.append(name)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), vars(session))

    yield run
    for name in cells:
        del linecache.cache[name]


def code():
    return STRATEGIES.code_fingerprint("half_step")


def test_the_same_cell_run_again_has_the_same_hash(run_cell):
    run_cell(HELPER)
    run_cell(CELL)
    first = code()
    first_class = STRATEGIES.get("half_step")
    run_cell(CELL)
    assert code() == first
    assert STRATEGIES.get("half_step") is not first_class
    assert len(first) == 64


@pytest.mark.parametrize(
    "change",
    [
        CELL.replace("step.model", "step"),
        HELPER.replace("return SHARE", "return 2 * SHARE"),
        "SHARE = 0.25",
    ],
    ids=["class", "function", "constant"],
)
def test_the_hash_follows_the_class_and_what_it_names(run_cell, change):
    run_cell(HELPER)
    run_cell(CELL)
    before = code()
    run_cell("unrelated = 1\n\ndef other(): pass\n")
    assert code() == before
    run_cell(change)
    assert code() != before


def test_a_local_module_that_a_cell_uses_counts(run_cell, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "beside_session.py"
    codes = []
    for value in (1, 1, 2):
        module.write_text(f"def scale(model): return {value}\n")
        sys.modules.pop("beside_session", None)
        run_cell("from beside_session import scale")
        run_cell(CELL)
        codes.append(code())
    assert codes[0] == codes[1] != codes[2]


def test_a_class_without_methods_is_found_in_the_last_cell_that_defines_it(run_cell):
    text = CELL.split("    def ")[0] + "    share = {}\n"
    codes = []
    for share in (1, 2, 1):
        run_cell(text.format(share))
        codes.append(code())
    assert codes[0] == codes[2] != codes[1]


def test_a_cell_may_be_edited_into_a_class_of_another_name(run_cell):
    run_cell(HELPER)
    run_cell(CELL)
    run_cell(CELL.replace("HalfStep", "Halved"))
    assert STRATEGIES.get("half_step").__name__ == "Halved"
    assert len(code()) == 64


def test_a_task_and_a_stream_of_a_cell_have_a_hash(run_cell):
    from epi_bench.spec.streams import STREAMS
    from epi_bench.task.task import TASKS

    run_cell(
        "from epi_bench import Example, ExperiencePlan, Task, TaskCard, ask, register_stream, "
        "register_task\n"
        "@register_task('cell_task')\n"
        "class CellTask(Task):\n"
        "    card = TaskCard('one line', 'ability', 'generate', 'found', 'CC0-1.0')\n"
        "    def examples(self, split): return [Example(ask('q', split), split)]\n"
        "@register_stream('cell_stream')\n"
        "def cell_stream(tasks): return [ExperiencePlan(t, (t,)) for t in tasks]\n"
    )
    assert len({TASKS.code_fingerprint("cell_task"), STREAMS.code_fingerprint("cell_stream")}) == 2


def test_without_source_one_line_says_what_to_do():
    program = CELL + "\nfrom epi_bench.strategy.strategy import STRATEGIES\n"
    program += "from epi_bench.errors import UserError\n"
    program += "try: STRATEGIES.code_fingerprint('half_step')\n"
    program += "except UserError as error: print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "'HalfStep' is defined without a file" in done.stdout
    assert "write it into a Python file" in done.stdout


def test_processes_of_their_own_are_refused_what_only_this_one_has(run_cell, toy_spec, tmp_path):
    from epi_bench.results.record.workspace import Workspace
    from epi_bench.runs.local_processes import LocalProcesses
    from epi_bench.runs.many_runs import run_on_backend
    from epi_bench.runs.ray_cluster import RayCluster
    from epi_bench.runs.request import RunRequest

    run_cell(HELPER)
    run_cell(CELL)
    specs = [toy_spec("half_step", seed=seed) for seed in (0, 1)]
    refused = r"'half_step' is defined in this process alone.*jobs=1 and the local backend"
    for backend in (LocalProcesses(2), RayCluster()):
        with pytest.raises(UserError, match=refused):
            list(run_on_backend(specs, RunRequest(Workspace(tmp_path)), backend))
    assert not list(tmp_path.iterdir())
