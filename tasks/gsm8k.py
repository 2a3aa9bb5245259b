"""GSM8K: grade-school mathematics in words (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from pathlib import Path

from epi_bench import (
    DatasetTask,
    DataSource,
    Example,
    Prediction,
    Row,
    Skipped,
    TaskCard,
    ask,
    marked_number,
    register_task,
    score_text,
)

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


@register_task("gsm8k")
class GSM8K(DatasetTask):
    """Word problems with worked solutions that end in ``#### <number>``.

    The whole solution is learned. Scored as task ``gsm8k`` (version 3) of
    lm-evaluation-harness scores it: ``strict_match`` takes the first number after ``####``,
    ``flexible_match`` the last number of the answer; thousands commas, dollar signs and one
    trailing dot are removed, then the strings must be equal (so ``18.00`` is not ``18``).
    ``number_match`` compares the answer's number by value. Unlike in the harness, the question is
    asked through the chat template and without few-shot examples, and an answer ends where the
    model ends it.

    Args:
        data_dir: Folder with ``gsm8k/train.jsonl`` and ``gsm8k/test.jsonl``; ``None`` for the hub.
        keep_calculator_marks: Leave the marks ``<<48/2=24>>`` in the solutions. They are removed
            by default: they stand for a calculator that the model does not have.
    """

    card = TaskCard(
        summary="Grade-school word problems with a worked solution and a number as the answer",
        ability="mathematics",
        scoring="generate",
        metric="strict_match",
        licence="MIT",
        max_new_tokens=320,
        version=2,
        source=DataSource(
            hub_id="openai/gsm8k",
            config="main",
            revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
            splits={"train": "train", "test": "test"},
            files={"train": ("gsm8k/train.jsonl",), "test": ("gsm8k/test.jsonl",)},
        ),
    )

    def __init__(
        self, data_dir: Path | None = None, *, keep_calculator_marks: bool = False
    ) -> None:
        super().__init__(data_dir)
        self.keep_calculator_marks = keep_calculator_marks

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The problem, and its solution with the number at the end as the reference."""
        question, answer = row.text("question"), row.text("answer")
        if not question:
            return Skipped("empty question")
        if not answer:
            return Skipped("empty answer")
        number = marked_number(answer)
        if number is None:
            raise row.error("has an answer without '#### <number>' at its end")
        if not self.keep_calculator_marks:
            answer = _CALCULATOR_MARK.sub("", answer)
        return Example(ask(question, answer), reference=number, meta={"row": row.index})

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """``strict_match``, ``flexible_match`` and ``number_match``, 0 or 1."""
        scores = score_text(
            prediction.text, example.reference, ("number_strict", "number_flexible", "number_match")
        )
        return {
            "strict_match": scores["number_strict"],
            "flexible_match": scores["number_flexible"],
            "number_match": scores["number_match"],
        }
