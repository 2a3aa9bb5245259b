"""The bases of mini-keep, and the runs that fine-tune them."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest
import tomli_w

from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import MINI_TASKS

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_keep_bases.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("task", MINI_TASKS)
def test_a_base_learns_the_four_others_and_never_the_new_task(script, task):
    base = script["base_spec"](task, steps=100)
    assert set(base.data.tasks) == set(MINI_TASKS) - {task}
    assert base.data.eval_tasks == (task,)
    assert base.stream.kind == "mixed"


@pytest.mark.parametrize("task", MINI_TASKS)
def test_the_settings_train_the_new_task_and_keep_the_others(script, task, tmp_path):
    """With the budget of the embedded model, whose name the base does not have."""
    text = tomli_w.dumps(script["settings_of"](task, tmp_path / f"keep-{task}"))
    spec = complete_spec(tomllib.loads(text))
    assert spec.data.tasks == (task,)
    assert set(spec.data.eval_tasks) == set(MINI_TASKS) - {task}
    assert Path(spec.model.name) == tmp_path / f"keep-{task}"
    plain = complete_spec({})
    assert (spec.training, spec.evaluation, spec.threads) == (
        plain.training,
        plain.evaluation,
        plain.threads,
    )
    assert spec.data.max_length == plain.data.max_length
