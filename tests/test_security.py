"""What SECURITY.md promises of the source: no pickle, no remote code, no name that is a path."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.plugins.registry import Registry
from epi_bench.results.record.record_file import load_record

REPOSITORY = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("epi_bench", "strategies", "tasks", "scripts")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.load", "numpy.load", "np.load", "os.system"}
RUNS_PROGRAMS = {"epi_bench/sandbox/candidate.py", "epi_bench/sandbox/examiner.py"}
"""What runs a model's programs, inside the sandbox."""


def _findings(source: str, name: str = "x.py") -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [n for n in names if n.partition(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS and not (called == "exec" and name in RUNS_PROGRAMS):
                found.append(called)
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg in ("trust_remote_code", "shell", "allow_pickle") and value is True:
                    found.append(f"{keyword.arg}=True")
                if keyword.arg == "weights_only" and value is False:
                    found.append("weights_only=False")
    return found


def test_no_source_unpickles_evaluates_or_runs_remote_code():
    assert len(SOURCES) > 200
    found = {}
    for path in SOURCES:
        name = path.relative_to(REPOSITORY).as_posix()
        if problems := _findings(path.read_text(encoding="utf-8"), name):
            found[name] = problems
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "eval('1')", "exec('1')", "torch.load(1)",
     "f(trust_remote_code=True)", "f(x, shell=True)", "f(weights_only=False)"],
)  # fmt: skip
def test_each_of_them_would_be_found(source):
    assert len(_findings(source)) == 1


PATHS = ["../x", "..", ".", "/etc/passwd", "a/b", "a\\b", "a\0b", "", "con:", "~", "a b", "a\n"]


@pytest.mark.parametrize("name", PATHS)
def test_no_name_of_a_task_strategy_or_stream_is_a_path(name):
    registry: Registry = Registry("task")
    with pytest.raises(UserError, match="is not usable"):
        registry.register(name)(object())


@pytest.mark.parametrize("field", ["run_id", "track"])
@pytest.mark.parametrize("name", PATHS)
def test_no_record_names_a_path(tmp_path, make_published, field, name):
    content = make_published()
    if field == "track":
        content["track"]["name"] = name
    else:
        content["run_id"] = name
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError):
        load_record(path)


@pytest.fixture
def make_published():
    """The content of a published record."""
    paths = sorted((REPOSITORY / "leaderboards").glob("*/*.json"))
    return lambda: json.loads(paths[0].read_text(encoding="utf-8"))
