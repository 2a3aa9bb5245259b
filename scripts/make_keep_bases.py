"""The bases of ``mini-keep``: models that have learned four of the five tasks of suite ``mini``.

The common case of fine-tuning in the small, without a download: a base model that can do four
things, fine-tuned on a fifth without the data of the four. For each of the five tasks one base is
made, by full fine-tuning of the embedded model on a mixture of the four others, and a ``run.toml``
that trains that base on the task, with the four others as eval tasks.

    python scripts/make_keep_bases.py --out mini_keep
    epi-bench run --config mini_keep/mini_math.toml --strategy full_sft,epi --seeds 3

A base takes about a minute. The same command again makes what is missing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from epi_bench.errors import UserError
from epi_bench.files import written_folder
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.runs.saving import FINAL, KeepModel
from epi_bench.spec.defaults import TINY_DEFAULTS, complete_spec
from epi_bench.spec.run_spec import MINI_TASKS, RunSpec


def base_spec(new_task: str, steps: int) -> RunSpec:
    """The run that makes the base for a task: full fine-tuning on a mixture of the four others.

    Args:
        new_task: The task that the base has never seen.
        steps: Optimizer steps for each of the four.
    """
    return complete_spec(
        {
            "strategy": {"name": "full_sft"},
            "stream": {"kind": "mixed"},
            "data": {"tasks": _others(new_task), "eval_tasks": [new_task]},
            "training": {"steps": steps},
        }
    )


def settings_of(new_task: str, base: Path) -> dict[str, Any]:
    """The ``run.toml`` that trains a base on the task it has never seen.

    Args:
        new_task: The task.
        base: The base's folder.
    """
    data = {"tasks": [new_task], "eval_tasks": _others(new_task)}
    return {
        **TINY_DEFAULTS,
        "model": {"name": str(base.resolve())},
        "data": {**TINY_DEFAULTS["data"], **data},
    }


def make_base(new_task: str, out: Path, steps: int) -> RunRecord:
    """Make the base for a task, unless it is there already, and the settings beside it.

    Args:
        new_task: The task that the base has never seen.
        out: Gets ``keep-TASK/``, ``TASK.toml`` and the run in ``runs/``.
        steps: See :func:`base_spec`.

    Raises:
        UserError: If the base cannot be made.
    """
    workspace = Workspace(out)
    request = RunRequest(workspace, published=False, keep_model=KeepModel.FINAL)
    outcome = run_one(base_spec(new_task, steps), request, RunObserver())
    if outcome.record is None or not outcome.succeeded:
        raise UserError(f"the base for {new_task} was not made: {outcome.reason}")
    base = out / f"keep-{new_task}"
    with written_folder(base) as folder:
        made = workspace.models_folder(outcome.record.run_id) / FINAL
        shutil.copytree(made, folder, dirs_exist_ok=True)
    settings = tomli_w.dumps(settings_of(new_task, base))
    (out / f"{new_task}.toml").write_text(settings, encoding="utf-8")
    return outcome.record


def _others(new_task: str) -> list[str]:
    return [name for name in MINI_TASKS if name != new_task]


def main() -> None:
    """Make the bases that were asked for, with a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("mini_keep"), help="folder of the bases")
    parser.add_argument("--tasks", default=",".join(MINI_TASKS), help="new tasks, with commas")
    parser.add_argument("--steps", type=int, default=100, help="steps for each of the four tasks")
    given = parser.parse_args()
    for task in given.tasks.split(","):
        if task not in MINI_TASKS:
            parser.error(f"{task!r} is none of {', '.join(MINI_TASKS)}")
        record = make_base(task, given.out, given.steps)
        scores = "  ".join(f"{name} {score:.0f}" for name, score in record.final_scores.items())
        print(f"{given.out / f'{task}.toml'}: its base has learned {scores}", flush=True)


if __name__ == "__main__":
    main()
