"""Run every published reference solution of HumanEval and MBPP through the sandbox.

    python scripts/check_reference_solutions.py DATA_DIR [--workers N]

A reference solution that does not pass is a defect of the sandbox or of the data set; each is
listed with its reason. DATA_DIR holds humaneval/ and mbpp/ as published.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from epi_bench.sandbox import SANDBOX_MODES, CodeRunner
from epi_bench.task.code_task import CodeTask
from epi_bench.task.example import Example
from epi_bench.task.rows.locate import locate, read_rows
from epi_bench.task.task import TASKS


def published_examples(task: CodeTask) -> Iterator[Example]:
    """The examples of all rows, whichever split they belong to."""
    location = locate(task.source, "test", task.data_dir)
    for row in read_rows(task.source, location, task.data_dir).chosen:
        made = task.example_from_row(row)
        if isinstance(made, Example):
            yield made


def check(name: str, data_dir: Path, workers: int | None) -> int:
    """Print how many reference solutions pass and which do not; the number that do not."""
    task = TASKS.get(name)(data_dir)
    if not isinstance(task, CodeTask):
        raise TypeError(f"{name} is not scored by running code")
    examples = list(published_examples(task))
    programs = [task.program(e, e.messages[-1]["content"]) for e in examples]
    # Other load on the machine is not the program's fault.
    runner = CodeRunner(replace(task.limits, wall_seconds=4 * task.limits.wall_seconds))
    start = time.perf_counter()
    verdicts = runner.run_all(programs, workers)
    seconds = time.perf_counter() - start
    print(f"{name}: mode {runner.mode} ({SANDBOX_MODES[runner.mode]})")
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    print(f"{name}: {outcomes['passed']} of {len(examples)} pass ({seconds:.0f} s)")
    for example, verdict in zip(examples, verdicts, strict=True):
        if not verdict.passed:
            print(f"  {example.meta['task_id']}: {verdict.outcome}: {verdict.detail}")
    return len(examples) - outcomes["passed"]


def main() -> int:
    """Check both data sets; 1 if any reference solution does not pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--workers", type=int, default=None, help="default: one a processor")
    arguments = parser.parse_args()
    failing = [check(n, arguments.data_dir, arguments.workers) for n in ("humaneval", "mbpp")]
    return int(any(failing))


if __name__ == "__main__":
    sys.exit(main())
