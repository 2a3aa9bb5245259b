"""Tasks that are scored by running the model's program against tests."""

from __future__ import annotations

import ast
import math
import textwrap
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from epi_bench.dataset_task import DatasetTask
from epi_bench.sandbox import PROTECTIONS, CodeRunner, Limits, Program, Verdict
from epi_bench.task import Example, Prediction
from epi_bench.text_scores import python_code


class CodeTask(DatasetTask):
    """A task whose answers are Python programs, passed or failed by tests that are run.

    Subclasses set :attr:`~epi_bench.Task.card` with ``metric="pass_at_1"`` and
    ``needs_code_execution=True`` and implement ``example_from_row`` and :meth:`program`.

    Metrics: ``pass_at_1``, 1 if the one greedy answer passes every test (pass@k with one sample,
    Chen et al. 2021); ``parses``, 1 if the answer is Python at all; ``timed_out``.

    Attributes:
        limits: What one program may use.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, data_dir: Path | None = None) -> None:
        super().__init__(data_dir)
        self._runner: CodeRunner | None = None

    @abstractmethod
    def program(self, example: Example, answer: str) -> Program:
        """The program that an answer makes, with its tests.

        Args:
            example: What was asked.
            answer: What the model wrote: prose, fenced code, a whole function or only its body.
        """

    def prepare_scoring(self) -> Sequence[str]:
        """Try the sandbox out, and say how programs are shut off.

        Raises:
            UserError: If this system has no safe way to run them.
        """
        protection = self._code_runner().protection
        return (
            f"task {self.name!r} runs programs that the model writes, shut off by {protection}: "
            f"{PROTECTIONS[protection]}",
        )

    def verdicts(self, examples: Sequence[Example], answers: Sequence[str]) -> list[Verdict]:
        """What becomes of each answer's program; run side by side, one for each processor.

        Args:
            examples: What was asked.
            answers: What the model wrote, one text for each example.
        """
        programs = [self.program(e, a) for e, a in zip(examples, answers, strict=True)]
        return self._code_runner().run_all(programs)

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """``pass_at_1``, ``parses`` and ``timed_out``, each 0 or 1."""
        return self.score_all([example], [prediction])[0]

    def score_all(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> list[dict[str, float]]:
        """The same for many predictions, in their order."""
        answers = [prediction.text for prediction in predictions]
        return [
            {
                "pass_at_1": float(verdict.passed),
                "parses": float(_parses(self.program(example, answer).source)),
                "timed_out": float(verdict.outcome == "timeout"),
            }
            for example, answer, verdict in zip(
                examples, answers, self.verdicts(examples, answers), strict=True
            )
        ]

    def _code_runner(self) -> CodeRunner:
        if self._runner is None:
            self._runner = CodeRunner(self.limits)
        return self._runner


def complete_function(stub: str, name: str, answer: str) -> str:
    """The program that an answer to "complete this function" makes.

    Fenced code is taken out of the prose around it. Where it defines the function, it follows the
    stub, whose imports and helper functions it may need. Where it does not, it is the function's
    body; a body that was written without its indentation gets it back.

    Args:
        stub: Imports, helper functions, and the function's signature and docstring.
        name: The function's.
        answer: What the model wrote.
    """
    code = python_code(answer).rstrip()
    if name in defined_names(code):
        return f"{stub.rstrip()}\n\n\n{code}\n"
    body = code.strip("\n")
    if body.startswith("\t"):
        body = textwrap.dedent(body)
    if not body.startswith(" "):
        body = _indented(body)
    return f"{stub.rstrip()}\n{body}\n"


def _indented(body: str) -> str:
    """A body with four blanks before each line, or before the first line alone.

    Answers that begin with a blank lose it where a tokenizer or chat template strips them, so the
    first line's indentation may be gone and the others' still there.
    """
    first_alone = f"    {body}"
    tree = _tree(f"def f():\n{first_alone}")
    if tree is not None and len(tree.body) == 1:
        return first_alone
    return textwrap.indent(body, "    ")


def defined_names(code: str) -> frozenset[str]:
    """The functions, classes and variables that Python source defines on its outermost level.

    For source that does not parse: the functions and classes of its lines that begin with ``def``
    or ``class``.
    """
    tree = _tree(code)
    if tree is None:
        heads = [line.split() for line in code.splitlines() if line.startswith(("def ", "class "))]
        return frozenset(words[1].split("(")[0].rstrip(":") for words in heads if len(words) > 1)
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        else:
            names.update(n.id for n in _stored_names(node))
    return frozenset(names)


def used_names(code: str) -> frozenset[str]:
    """The names that Python source reads, at any depth; none for source that does not parse."""
    tree = _tree(code)
    if tree is None:
        return frozenset()
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _stored_names(node: ast.AST) -> list[ast.Name]:
    return [
        inner
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    ]


def _parses(code: str) -> bool:
    return _tree(code) is not None


def _tree(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code, which is not ours
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of ``k`` samples passes.

    ``1 - C(n - c, k) / C(n, k)``: one minus the chance that ``k`` of the ``n`` samples, drawn
    without replacement, all are among the ``n - c`` that failed (Chen et al. 2021, arXiv
    2107.03374, equation 1). Average it over problems.

    Args:
        samples: Answers that were sampled for one problem, ``n``, at least ``k``.
        passed: Those that passed its tests, ``c``, from 0 to ``n``.
        k: Answers that a user would look at, at least 1.

    Raises:
        ValueError: If the numbers are out of range.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} takes at least {max(k, 1)} samples, not {samples}, and k >= 1")
    if not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples} samples cannot have passed")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
