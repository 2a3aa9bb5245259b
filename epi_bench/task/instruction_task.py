"""Tasks whose rows are an instruction, an optional input and an output, as in Alpaca."""

from __future__ import annotations

import re
from typing import ClassVar

from epi_bench.task.dataset_task import DatasetTask, Skipped
from epi_bench.task.example import Example, Prediction, ask
from epi_bench.task.rows.row import Row
from epi_bench.task.text_scores import score_text

_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}"
)
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}"
)
_NO_INPUT = re.compile(
    r"\W*(no\s*input(\s+(is\s+)?(required|needed|necessary|given|provided))?|n/a|none)\W*",
    re.IGNORECASE,
)


class InstructionTask(DatasetTask):
    """Rows with ``instruction``, ``input`` and ``output``; further columns are not looked at.

    The question is Alpaca's published prompt (github.com/tatsu-lab/stanford_alpaca) without its
    last line ``### Response:``, whose place the chat template's assistant turn takes. The rows'
    ways to say that there is no input (``<noinput>``, ``No input``, ...) count as no input. Rows
    with an empty instruction or output are skipped: both data sets have some.

    Attributes:
        scorers: The text scores to report; the card's primary metric is among them.
    """

    scorers: ClassVar[tuple[str, ...]] = ("rouge_l", "chrf")

    def example_from_row(self, row: Row) -> Example | Skipped:
        """One question and one answer."""
        instruction, output = row.text("instruction"), row.text("output")
        if not instruction:
            return Skipped("empty instruction")
        if not output:
            return Skipped("empty output")
        question = alpaca_prompt(instruction, row.text("input") if row.has("input") else "")
        return Example(ask(question, output), reference=output, meta={"row": row.index})

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """The task's text scores, each from 0 to 1."""
        return score_text(prediction.text, example.reference, self.scorers)


def alpaca_prompt(instruction: str, text_input: str = "") -> str:
    """Alpaca's prompt for an instruction, without the closing ``### Response:``."""
    if not text_input or _NO_INPUT.fullmatch(text_input):
        return _WITHOUT_INPUT.format(instruction=instruction)
    return _WITH_INPUT.format(instruction=instruction, input=text_input)
