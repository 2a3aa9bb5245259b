"""What a model said to each test item, as JSON lines: to read, to count, to score otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epi_bench.evaluation.scores import TaskScores
from epi_bench.files import write_atomically
from epi_bench.foreign_text import json_text
from epi_bench.task.example import Example, Prediction


def save_predictions(
    examples: Mapping[str, Sequence[Example]], scores: Mapping[str, TaskScores], path: Path
) -> None:
    """Write one line an item; afterwards the file is complete, or as it was before.

    A line holds ``task``, ``item`` (the key of the record's item scores), ``prompt`` (the messages
    before the answer), ``reference``, ``metrics`` (in the task's own units), and of the model's
    answer what the scoring mode gives: ``text``; ``options`` and ``option_log_likelihoods`` (sums
    in nats); ``correct_tokens`` (one for each token of the reference);
    ``reference_negative_log_likelihood`` (nats a token).

    Args:
        examples: Of each task.
        scores: Of each task, with predictions and results.
        path: The file.

    Raises:
        UserError: If the file cannot be written.
    """
    lines = [
        json_text(
            {
                "task": task,
                "item": item,
                "prompt": list(example.prompt),
                "reference": example.reference,
                **_answer(example, prediction),
                "metrics": dict(result),
            },
            indent=None,
        )
        for task, found in scores.items()
        for item, (example, prediction, result) in enumerate(
            zip(examples[task], found.predictions, found.results, strict=True)
        )
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _answer(example: Example, prediction: Prediction) -> dict[str, Any]:
    """The parts of a prediction that its scoring mode fills."""
    if prediction.option_log_likelihoods:
        return {
            "options": list(example.options),
            "option_log_likelihoods": list(prediction.option_log_likelihoods),
        }
    loss = {"reference_negative_log_likelihood": prediction.reference_negative_log_likelihood}
    if prediction.correct_tokens:
        return {"correct_tokens": [int(c) for c in prediction.correct_tokens], **loss}
    cut = {"is_cut": True} if prediction.is_cut else {}
    return {"text": prediction.text, **cut, **loss}
