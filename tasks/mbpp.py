"""MBPP: mostly basic Python problems (Austin et al. 2021, arXiv 2108.07732)."""

from __future__ import annotations

from epi_bench import (
    CodeTask,
    DataSource,
    Example,
    Program,
    Row,
    Skipped,
    TaskCard,
    ask,
    defined_names,
    python_code,
    register_task,
    used_names,
)

_QUESTION = (
    "You are an expert Python programmer, and here is your task: {text} "
    "Your code should pass these tests:\n\n{tests}"
)
_FILES = ("mbpp/mbpp.jsonl",)


@register_task("mbpp")
class MBPP(CodeTask):
    """Short Python problems in one sentence with three tests each, scored by running the tests.

    The question shows the tests, as in the paper: they name the function and its arguments.
    Published splits by ``task_id``: 601 to 974 train, 11 to 510 test; the file ``mbpp.jsonl``
    holds all of them, and also 511 to 600 (validation) and 1 to 10 (few-shot prompts), which are
    not used. Challenge tests are not run, as usual.
    """

    card = TaskCard(
        summary="Short Python problems in a sentence and three tests, scored by running the tests",
        ability="code",
        scoring="generate",
        metric="pass_at_1",
        licence="CC BY 4.0",
        max_new_tokens=384,
        source=DataSource(
            hub_id="google-research-datasets/mbpp",
            config="full",
            revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            splits={"train": "train", "test": "test"},
            files={"train": _FILES, "test": _FILES},
        ),
        needs_code_execution=True,
        version=2,
    )

    def published_split(self, row: Row) -> str | None:
        """The split that a row belongs to, by its number; ``None`` where it is missing."""
        number = row.value("task_id")
        if number is None:
            return None
        if not isinstance(number, int):
            raise row.error(f"field 'task_id' is no number but {number!r}")
        if number <= 10:
            return "prompt"
        if number <= 510:
            return "test"
        return "validation" if number <= 600 else "train"

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The sentence and its tests as the question, and the reference program as the answer."""
        tests, text = row.value("test_list"), row.text("text")
        if tests is None:
            return Skipped("no tests")
        if row.value("task_id") is None:
            return Skipped("no task_id")
        is_list = isinstance(tests, list) and len(tests) > 0
        if not is_list or not all(isinstance(test, str) for test in tests):
            raise row.error("field 'test_list' is no list of tests")
        code = row.code("code").strip()
        if not text or not code:
            return Skipped("empty code" if text else "empty text")
        question = _QUESTION.format(text=text, tests="\n".join(tests))
        return Example(
            ask(question, f"```python\n{code}\n```"),
            reference=code,
            meta={
                "row": row.index,
                "task_id": row.value("task_id"),
                "setup": row.code("test_setup_code"),
                "tests": tuple(tests),
            },
        )

    def program(self, example: Example, answer: str) -> Program:
        """The code of an answer.

        The tests find under the program's names what the reference program defines. Some count on
        the reference program's imports as well: those are theirs without the program.
        """
        tests = "\n".join([example.meta["setup"], *example.meta["tests"]])
        names = defined_names(example.reference) & used_names(tests)
        lines = example.reference.splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        code = python_code(answer, names)
        return Program(code, tuple(sorted(names)), tests, "\n".join(imports))
