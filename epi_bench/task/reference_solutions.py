"""The published solutions of a task that is scored by running code, run as a model's answers are.

A published solution that does not pass is a defect of the data set, or of the sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from epi_bench.sandbox import CodeRunner, Verdict
from epi_bench.task.code_task import CodeTask
from epi_bench.task.example import Example

PATIENCE = 4
"""How many times longer the time limit is: other load on the machine is not the program's fault."""


@dataclass(frozen=True)
class ReferenceSolution:
    """What became of a published solution.

    Attributes:
        name: Of its problem, as the data set calls it.
        verdict: Of the sandbox.
    """

    name: str
    verdict: Verdict


def run_reference_solutions(task: CodeTask, workers: int | None = None) -> list[ReferenceSolution]:
    """Run the solutions of all rows, whichever split they belong to.

    Args:
        task: Whose.
        workers: Programs at a time; ``None`` for one a processor.

    Raises:
        UserError: If the rows cannot be read, or this system has no safe way to run programs.
    """
    rows = task.rows_at(task.locate_rows("test")).chosen
    made = [(row.origin, task.example_from_row(row)) for row in rows]
    examples = [(where, example) for where, example in made if isinstance(example, Example)]
    programs = [task.program(e, e.messages[-1]["content"]) for _, e in examples]
    runner = CodeRunner(replace(task.limits, wall_seconds=PATIENCE * task.limits.wall_seconds))
    return [
        ReferenceSolution(str(example.meta.get("task_id", where)), verdict)
        for (where, example), verdict in zip(
            examples, runner.run_all(programs, workers), strict=True
        )
    ]
