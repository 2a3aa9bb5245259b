"""Tasks that ask for the label of a text, as in the continual-learning benchmark of O-LoRA."""

from __future__ import annotations

from typing import ClassVar

from epi_bench.dataset_task import DatasetTask, Skipped, ask
from epi_bench.sources import Row
from epi_bench.task import Example


class ClassificationTask(DatasetTask):
    """Choose the label of a text among all labels.

    The question is that of the O-LoRA paper (Wang et al. 2023, arXiv 2310.14152, "CL benchmark"):
    an instruction, the label names after ``Option:``, the text, and ``Answer:``.

    Labels may be names (in any case) or integers, which count the labels from
    :attr:`first_label`. Both the benchmark's files (``label``, ``sentence``) and the columns of
    the hub give the same examples: :meth:`row_text` brings the text into one form.

    Attributes:
        labels: The label names, in the order of the integer labels.
        first_label: The integer of the first label.
        instruction: The instruction's first sentence.
        label_fields: Columns that may hold the label.
        title_fields: Columns that may hold the title.
        content_fields: Columns that may hold the text below the title.
    """

    labels: ClassVar[tuple[str, ...]]
    first_label: ClassVar[int] = 0
    instruction: ClassVar[str] = "What is the topic of the following paragraph?"
    label_fields: ClassVar[tuple[str, ...]] = ("label",)
    title_fields: ClassVar[tuple[str, ...]] = ("title",)
    content_fields: ClassVar[tuple[str, ...]] = ("content",)

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The question with the label's name as the answer."""
        text = self.row_text(row)
        if not text:
            return Skipped("empty text")
        label = self.label_of(row)
        question = (
            f"{self.instruction} Choose one from the option.\n"
            f"Option: {', '.join(self.labels)}\n{text}\nAnswer:"
        )
        return Example(ask(question, label), label, self.labels, {"row": row.index})

    def row_text(self, row: Row) -> str:
        """The text to label: ``Title: ...``, a line break, ``Text: ...``."""
        if row.has("sentence"):
            title, content = split_sentence(row.text("sentence"))
        else:
            title = _first_text(row, self.title_fields)
            content = row.text(*self.content_fields)
        if not title and not content:
            return ""
        return f"Title: {title}\nText: {content}" if title else f"Text: {content}"

    def label_of(self, row: Row) -> str:
        """The label's name.

        Raises:
            UserError: If the row's label is none of the task's.
        """
        value = row.value(*self.label_fields)
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value - self.first_label < len(self.labels):
                return self.labels[value - self.first_label]
        else:
            for label in self.labels:
                if label.casefold() == str(value).strip().casefold():
                    return label
        raise row.error(f"has label {value!r}, which is none of {', '.join(self.labels)}")


def split_sentence(sentence: str) -> tuple[str, str]:
    """Title and text of the benchmark's form ``Title: ...``, a line break, ``Text: ...``."""
    title, mark, content = sentence.partition("\nText:")
    if not mark or not title.startswith("Title:"):
        return "", sentence.strip()
    return title.removeprefix("Title:").strip(), content.strip()


def _first_text(row: Row, names: tuple[str, ...]) -> str:
    return row.text(*names) if any(row.has(name) for name in names) else ""
