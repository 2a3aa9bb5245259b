"""Tasks that are scored by running the model's program against tests."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from epi_bench.sandbox import (
    SANDBOX_MODES,
    CodeRunner,
    Limits,
    Program,
    Verdict,
)
from epi_bench.task.dataset_task import DatasetTask
from epi_bench.task.example import Example, Prediction
from epi_bench.task.python_source import parsed


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
        mode = self._code_runner().mode
        return (
            f"task {self.name!r} runs programs that the model writes, shut off by {mode}: "
            f"{SANDBOX_MODES[mode]}",
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
                "parses": float(parsed(self.program(example, answer).source) is not None),
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
