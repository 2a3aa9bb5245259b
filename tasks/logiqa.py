"""LogiQA: questions of logical reasoning with four answers (Liu et al. 2020, arXiv 2007.08124)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from epi_bench import (
    DatasetTask,
    DataSource,
    Example,
    Row,
    Skipped,
    TaskCard,
    UserError,
    ask,
    is_missing,
    register_task,
)

_LETTERS = "ABCD"
_OPTION_LETTER = re.compile(r"([A-Da-d])(?:[.?]\s?|\s)")
_LINES = 8  # of a row of the authors' files: blank, answer letter, context, question, four options


@register_task("logiqa")
class LogiQA(DatasetTask):
    """A passage, a question and four answers, of which one is right.

    The question is asked in the words of task ``logiqa`` of lm-evaluation-harness (``Passage:``,
    ``Question:``, ``Choices:`` with letters, ``Answer:``), as the user's message. As there, the
    texts of the answers are scored, not their letters: ``acc`` by summed log-likelihood,
    ``acc_norm`` after division by the answer's length in characters. The text of the right answer
    is what is learned.

    Three layouts are read: ``query`` and ``correct_option`` (a position), ``question`` and
    ``label`` (a letter), and the authors' text files of eight lines a row. Texts stay as they are
    published, so the second layout differs in the blanks after full stops. The letters printed
    before the options of the text files are removed, not read: some rows print A, C, B, D, and the
    answer letter counts positions, as in the other layouts. An answer that a row prints twice is
    scored once.

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
        version=2,  # an option that begins another is scored with its end of turn
        source=DataSource(
            hub_id="lucasmccabe/logiqa",
            config=None,
            revision="refs/convert/parquet",  # main holds a loading script, which is never run
            splits={"train": "train", "test": "test"},
            files={
                "train": (
                    "logiqa/train.jsonl",
                    "logiqa/train_eleutherai.jsonl",
                    "logiqa/Train.txt",
                    "logiqa/validation.jsonl",
                    "logiqa/validation_eleutherai.jsonl",
                    "logiqa/Eval.txt",
                ),
                "test": (
                    "logiqa/test.jsonl",
                    "logiqa/test_eleutherai.jsonl",
                    "logiqa/Test.txt",
                ),
            },
        ),
    )

    def read_file(self, path: Path) -> Iterable[Row]:
        """Rows of the authors' text files, or of JSON."""
        return self._text_rows(path) if path.suffix == ".txt" else super().read_file(path)

    def _text_rows(self, path: Path) -> Iterator[Row]:
        inside = self.data_dir is not None and path.is_relative_to(self.data_dir)
        shown = path.relative_to(self.data_dir) if inside and self.data_dir else path
        try:
            lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise UserError(f"{shown} line {line}: not UTF-8 text: {error.reason}") from error
        for start in range(0, len(lines), _LINES):
            block = lines[start : start + _LINES]
            letter = block[1].strip().upper() if len(block) == _LINES else ""
            if block[0].strip() or letter not in tuple(_LETTERS):
                raise UserError(
                    f"{shown} line {start + 1}: no row of {_LINES} lines begins here (a blank "
                    "line, the answer letter, context, question, four options)"
                )
            fields = {
                "context": block[2],
                "query": block[3],
                "options": list(map(_without_letter, block[4:], _LETTERS)),
                "correct_option": letter,
            }
            yield Row(fields, start // _LINES, f"{shown} line {start + 2}")

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The question with its answers as options; the right one is the reference."""
        passage, question = row.text("context"), row.text("query", "question")
        options = row.value("options")
        if options is not None and not _are_answers(options):
            raise row.error(f"has no list of {len(_LETTERS)} answers in field 'options'")
        answers = ["" if is_missing(option) else str(option).strip() for option in options or ()]
        if not question or not answers or not all(answers):
            return Skipped("empty question or answer")
        if not passage:
            return Skipped("empty passage")
        if row.value("correct_option", "label") is None:
            return Skipped("no right answer")
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


def _are_answers(options: object) -> bool:
    return isinstance(options, list) and len(options) == len(_LETTERS)


def _without_letter(option: str, own: str) -> str:
    """An option of the text files without the letter before it, which some print as ``C?``.

    A letter with nothing but a blank after it is removed only where it is the option's own: the
    third option ``A small amount`` begins with a word.
    """
    found = _OPTION_LETTER.match(option)
    if found is None or (found[0][1:].isspace() and found[1].upper() != own):
        return option
    return option[found.end() :]


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
