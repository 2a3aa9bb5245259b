"""HumanEval: functions to complete from their docstring (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

from typing import ClassVar

from epi_bench import (
    CodeTask,
    DataSource,
    Example,
    Program,
    Row,
    Skipped,
    TaskCard,
    ask,
    complete_function,
    register_task,
)

_QUESTION = (
    "Complete the following Python function. Answer with the whole function in a Python code "
    "block.\n\n```python\n{stub}\n```"
)
_FILES = (
    "humaneval/test.jsonl",
    "humaneval/HumanEval.jsonl.gz",
    "humaneval/HumanEval.jsonl",
)


@register_task("humaneval")
class HumanEval(CodeTask):
    """Python functions to write from signature and docstring, scored by running their tests.

    The data set is made for evaluation: its only split is called ``test`` and has 164 problems. A
    stream must also learn from each task, so about half of the problems, chosen by the hash of the
    prompt, are for training (90, with their canonical solutions), the others for testing (74). A
    score is therefore not comparable with a published pass@1 over all 164.

    Answers count as whole functions, fenced or not, or as the function's body alone.
    """

    test_every: ClassVar[int] = 2
    card = TaskCard(
        summary="Functions to write from their docstring, scored by tests; half to learn from",
        ability="code",
        scoring="generate",
        metric="pass_at_1",
        licence="MIT",
        max_new_tokens=512,
        source=DataSource(
            hub_id="openai/openai_humaneval",
            config="openai_humaneval",
            revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            splits={"train": "test", "test": "test"},
            files={"train": _FILES, "test": _FILES},
        ),
        needs_code_execution=True,
        version=2,
    )

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The stub as the question, and the whole function as the answer."""
        stub, solution = row.code("prompt"), row.code("canonical_solution")
        name, tests = row.text("entry_point"), row.code("test")
        parts = {"prompt": stub, "solution": solution, "function name": name, "test": tests}
        for part, text in parts.items():
            if not text.strip():
                return Skipped(f"empty {part}")
        answer = f"```python\n{stub}{solution.rstrip()}\n```"
        return Example(
            ask(_QUESTION.format(stub=stub.strip()), answer),
            reference=solution,
            meta={
                "row": row.index,
                "task_id": row.text("task_id"),
                "stub": stub,
                "name": name,
                "tests": tests,
            },
        )

    def program(self, example: Example, answer: str) -> Program:
        """The stub completed by the answer.

        Tests of some problems call helper functions of the stub, so it is theirs too.
        """
        stub, name = example.meta["stub"], example.meta["name"]
        return Program(
            source=complete_function(stub, name, answer),
            names=(name,),
            tests=f"{example.meta['tests']}\n\ncheck({name})\n",
            preparation=stub,
        )
