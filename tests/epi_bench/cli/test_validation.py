"""Published solutions run in the sandbox, from the command line."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from epi_bench.cli.validation import validate_tasks
from epi_bench.errors import UserError


@pytest.fixture
def call():
    app = typer.Typer()
    app.command()(validate_tasks)
    return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])


def humaneval(folder, solutions):
    """Problems with these solutions, in the published layout."""
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": 'def twice(x):\n    """Twice x."""\n',
            "canonical_solution": f"    return {solution}\n",
            "entry_point": "twice",
            "test": "def check(f):\n    assert f(3) == 6\n",
        }
        for number, solution in enumerate(solutions)
    ]
    (folder / "humaneval").mkdir(parents=True)
    (folder / "humaneval" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_solution_that_does_not_pass_is_named_and_gives_code_2(call, tmp_path):
    folder = humaneval(tmp_path, ["2 * x", "x", "x + x"])
    result = call("humaneval", "--reference-solutions", "--data-dir", folder)
    assert result.exit_code == 2
    assert result.stdout.splitlines()[-1].split()[:3] == ["humaneval", "3", "2"]
    assert result.stderr.startswith("epi-bench: humaneval: HumanEval/1: wrong_answer: Ass")
    assert len(result.stderr.splitlines()) == 1


def test_where_all_pass_the_code_is_0(call, tmp_path):
    result = call("humaneval", "--reference-solutions", "--data-dir", humaneval(tmp_path, ["2*x"]))
    assert (result.exit_code, result.stderr) == (0, "")


def test_only_tasks_scored_by_running_code_have_such_solutions(call):
    error = call("gsm8k", "--reference-solutions").exception
    assert isinstance(error, UserError)
    assert "task 'gsm8k' is not scored by running code" in str(error)
    assert "did you mean 'humaneval'" in str(call("humanevel", "--reference-solutions").exception)
