"""Tasks that ask for the label of a text, as in the continual-learning benchmark of O-LoRA."""

from __future__ import annotations

from typing import ClassVar

from epi_bench.task.dataset_task import DatasetTask, Skipped
from epi_bench.task.example import Example, ask
from epi_bench.task.rows.row import Row, shown_value


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
        if row.value(*self.label_fields) in (None, ""):
            return Skipped("no label")
        label = self.label_of(row)
        question = (
            f"{self.instruction} Choose one from the option.\n"
            f"Option: {', '.join(self.labels)}\n{text}\nAnswer:"
        )
        return Example(ask(question, label), label, self.labels, {"row": row.index})

    def row_text(self, row: Row) -> str:
        """The text to label, as :meth:`title_and_text` writes it."""
        if row.has_column("sentence"):
            return self.title_and_text(*self.split_sentence(row))
        return self.title_and_text(row.text(*self.title_fields), row.text(*self.content_fields))

    @staticmethod
    def title_and_text(title: str, text: str) -> str:
        """``Title: ...``, a line break, ``Text: ...``; a part that is empty is left out."""
        parts = (("Title", title), ("Text", text))
        return "\n".join(f"{name}: {content}" for name, content in parts if content)

    @staticmethod
    def split_sentence(row: Row) -> tuple[str, str]:
        """Title and text of the benchmark's form: ``Title: ...``, a line break, ``Text: ...``."""
        sentence = row.text("sentence")
        title, mark, text = sentence.partition("\nText:")
        if not mark or not title.startswith("Title:"):
            return "", sentence
        return title.removeprefix("Title:").strip(), text.strip()

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
        raise row.error(
            f"has label {shown_value(value)}, which is none of {', '.join(self.labels)}"
        )
