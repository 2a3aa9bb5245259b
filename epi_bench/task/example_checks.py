"""Whether examples can be trained on and scored: what a task of anybody's hands over is checked
once, before a run writes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epi_bench.errors import UserError
from epi_bench.task.example import AnyScoring, Example
from epi_bench.task.rows.row import shown_value
from epi_bench.task.rows.source import Split
from epi_bench.task.rows.text_files import lone_surrogate
from epi_bench.task.task import Task


def check_examples(task: Task, split: Split, examples: Sequence[Example]) -> None:
    """Refuse examples that could not be encoded or scored.

    Args:
        task: Made them; its options are looked at where the model chooses.
        split: Whose examples they are.
        examples: All of the split.

    Raises:
        UserError: If a text is none, a conversation does not end with the assistant, or the
            reference is not an option; split and number (from 1) are named.
    """
    for number, example in enumerate(examples, start=1):
        if problem := _problem(example, task.card.scoring):
            raise UserError(f"task {task.name!r}: {split} example {number} {problem}")


def _problem(example: object, scoring: AnyScoring) -> str | None:
    if not isinstance(example, Example):
        return f"is not an epi_bench.Example but {shown_value(example)}"
    if not example.messages:
        return "has no messages"
    texts = {"reference": example.reference}
    for number, message in enumerate(example.messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return f"has a message {number} without a role: {shown_value(message)}"
        texts[f"content of message {number}"] = message.get("content")
    if example.messages[-1]["role"] != "assistant":
        return "does not end with a message of the assistant, which is what is learned"
    if scoring == "choice":
        texts |= {f"option {n}": option for n, option in enumerate(example.options, start=1)}
    for name, text in texts.items():
        if not isinstance(text, str):
            return f"has as {name} no text but {shown_value(text)}"
        if defect := lone_surrogate(text):
            return f"has as {name} {defect}"
    return _option_problem(example) if scoring == "choice" else None


def _option_problem(example: Example) -> str | None:
    if len(set(example.options)) < 2:
        return "has fewer than two different options"
    if not all(option.strip() for option in example.options):
        return "has an empty option"
    if example.reference not in example.options:
        return f"has the reference {shown_value(example.reference)}, which is none of its options"
    return None
