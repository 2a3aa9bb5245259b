"""LogiQA: questions of logical reasoning with four answers (Liu et al. 2020, arXiv 2007.08124)."""

from __future__ import annotations

from epi_bench import (
    DatasetTask,
    DataSource,
    Example,
    Row,
    Skipped,
    TaskCard,
    ask,
    register_task,
)

_LETTERS = "ABCD"


@register_task("logiqa")
class LogiQA(DatasetTask):
    """A passage, a question and four answers, of which one is right.

    The question is asked in the words of task ``logiqa`` of lm-evaluation-harness (``Passage:``,
    ``Question:``, ``Choices:`` with letters, ``Answer:``), as the user's message. As there, the
    texts of the answers are scored, not their letters: ``acc`` by summed log-likelihood,
    ``acc_norm`` after division by the answer's length in characters. The text of the right answer
    is what is learned.

    Both published layouts are read: ``query`` and ``correct_option`` (a position), or
    ``question`` and ``label`` (a letter). Texts stay as they are published, so the two layouts
    differ in the blanks after full stops. An answer that a row prints twice is scored once.

    The files of the training split are not part of every copy. Where only the validation file is
    there, the model is trained on it: the validation split is used for nothing else here. Results
    of the two are told apart by the examples' fingerprint in the record.
    """

    card = TaskCard(
        summary="Passages with a question of logical reasoning and four answers",
        ability="logic",
        scoring="choice",
        metric="acc",
        licence="none stated by the authors",
        chance=25.0,
        source=DataSource(
            hub_id="lucasmccabe/logiqa",
            config=None,
            revision="refs/convert/parquet",  # main holds a loading script, which is never run
            splits={"train": "train", "test": "test"},
            files={
                "train": (
                    "logiqa/train.jsonl",
                    "logiqa/train_eleutherai.jsonl",
                    "logiqa/validation.jsonl",
                    "logiqa/validation_eleutherai.jsonl",
                ),
                "test": ("logiqa/test.jsonl", "logiqa/test_eleutherai.jsonl"),
            },
        ),
    )

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The question with its answers as options; the right one is the reference."""
        passage, question = row.text("context"), row.text("query", "question")
        options = row.value("options")
        if not isinstance(options, list) or len(options) != len(_LETTERS):
            raise row.error(f"has no list of {len(_LETTERS)} answers in field 'options'")
        answers = [str(option).strip() for option in options]
        if not question or not all(answers):
            return Skipped("empty question or answer")
        choices = "\n".join(
            f"{letter}. {answer}" for letter, answer in zip(_LETTERS, answers, strict=True)
        )
        prompt = f"Passage: {passage}\nQuestion: {question}\nChoices:\n{choices}\nAnswer:"
        right = answers[_position(row)]
        return Example(
            ask(prompt, right),
            reference=right,
            options=tuple(dict.fromkeys(answers)),
            meta={"row": row.index},
        )


def _position(row: Row) -> int:
    """Position of the right answer, from 0."""
    value = row.value("correct_option", "label")
    if isinstance(value, str) and len(value.strip()) == 1:
        position = _LETTERS.find(value.strip().upper())
    else:
        position = value if isinstance(value, int) else -1
    if not 0 <= position < len(_LETTERS):
        raise row.error(f"has the right answer {value!r}, which is none of a to d or 0 to 3")
    return position
