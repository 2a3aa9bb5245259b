"""Tasks over published data sets: from rows to examples, counted, and divided where needed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from epi_bench.errors import UserError
from epi_bench.task.example import Example
from epi_bench.task.rows.json_rows import read_json_rows
from epi_bench.task.rows.locate import (
    Location,
    Rows,
    locate,
    read_rows,
)
from epi_bench.task.rows.row import Row
from epi_bench.task.rows.source import SPLITS, DataSource, Split
from epi_bench.task.task import Task

FEW = 5
"""Examples of a split that may have one answer by chance are fewer."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Returned for a row that makes no example because of a known defect of its data set.

    Attributes:
        reason: What is wrong with it; rows are counted by reason.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What became of the rows of a split.

    Attributes:
        split: Train or test.
        origin: File, folder or hub data set that was read.
        rows_read: Rows that it holds.
        rows: Rows among them that belong to this split; the others are on the other side of a
            division, or beyond the task's row limit.
        examples: Examples made of them.
        skipped: Rows of this split that made no example, by reason.
    """

    split: Split
    origin: str
    rows_read: int
    rows: int
    examples: int
    skipped: Mapping[str, int]


class DatasetTask(Task):
    """A task over a published data set.

    Subclasses set :attr:`~epi_bench.Task.card` with its ``source`` and implement
    :meth:`example_from_row`; those that generate text implement ``score`` too.

    Where train and test come from the same published rows they are divided by
    :func:`is_test_prompt`, the same way in every layout of the data.

    Attributes:
        test_every: One of this many prompts is for testing, where the task divides a split.
        row_limit: Rows used of a longer split, spread evenly over it; ``None`` uses all.
    """

    test_every: ClassVar[int] = 10
    row_limit: ClassVar[int | None] = None

    def __init__(self, data_dir: Path | None = None) -> None:
        super().__init__(data_dir)
        self._loaded: dict[Split, tuple[list[Example], SplitReport]] = {}

    @abstractmethod
    def example_from_row(self, row: Row) -> Example | Skipped:
        """The example that a row makes, or why it makes none.

        Raises:
            UserError: If a field is missing or of the wrong kind (``Row`` raises it).
        """

    def published_split(self, row: Row) -> str | None:
        """The published split that a row says it belongs to, in a file that holds several.

        The default, ``None``, is for rows that do not say: theirs is the file's or folder's split.
        """
        return None

    def division_key(self, example: Example) -> str:
        """The text by which a published split is divided; equal keys stay together.

        The default is the first user message.
        """
        return next(m["content"] for m in example.messages if m["role"] == "user")

    def read_file(self, path: Path) -> Iterable[Row]:
        """The rows of a local file; override it for files in a layout of their own.

        Raises:
            UserError: If the file is broken; file and line are named.
        """
        return read_json_rows(path, self.data_dir)

    def examples(self, split: Split) -> Sequence[Example]:
        """All examples of a split, in the published order; read once.

        Raises:
            UserError: If the rows are missing or broken; file and line are named.
        """
        return self._load(split)[0]

    def report(self, split: Split) -> SplitReport:
        """How many rows were read and what became of them."""
        return self._load(split)[1]

    @property
    def source(self) -> DataSource:
        """The card's source; every task of this kind has one."""
        if self.card.source is None:
            raise TypeError(f"the card of task {self.name!r} names no source")
        return self.card.source

    def locate_rows(self, split: Split) -> Location:
        """Where the split's rows lie; nothing is read.

        Raises:
            UserError: If they are not there.
        """
        return locate(self.source, split, self.data_dir)

    def rows_at(self, location: Location) -> Rows:
        """The rows at a location.

        Raises:
            UserError: If they are missing or broken; file and line are named.
        """
        return read_rows(self.source, location, self.data_dir, self.row_limit, self.read_file)

    def _load(self, split: Split) -> tuple[list[Example], SplitReport]:
        if split not in self._loaded:
            self._loaded[split] = self._read(split)
        return self._loaded[split]

    def _read(self, split: Split) -> tuple[list[Example], SplitReport]:
        location = self.locate_rows(split)
        rows = self.rows_at(location)
        divided = self.is_divided(location)
        examples: list[Example] = []
        skipped: Counter[str] = Counter()
        belonging = 0
        for row in rows.chosen:
            published = self.published_split(row)
            if published is not None and published != self.source.splits[split]:
                continue
            made = self.example_from_row(row)
            if divided and published is None and self.side(made) != split:
                continue
            belonging += 1
            if isinstance(made, Skipped):
                skipped[made.reason] += 1
            else:
                examples.append(made)
        if not examples:
            raise UserError(
                f"{location} gives no {split} example for task {self.name!r}"
                f"{_told_reasons(skipped)}"
            )
        report = SplitReport(
            split, str(location), rows.total, belonging, len(examples), dict(skipped)
        )
        return examples, report

    def side(self, made: Example | Skipped) -> Split:
        """On which side of a divided split a row lies."""
        if isinstance(made, Skipped):  # it has no prompt to go by
            return "train"
        return "test" if is_test_prompt(self.division_key(made), self.test_every) else "train"

    def is_divided(self, location: Location) -> bool:
        """Whether train and test are the same published rows, as they lie here."""
        found = []
        for split in SPLITS:
            with suppress(UserError):  # a missing split shares no rows with the other
                found.append(self.locate_rows(split))
        return found.count(location) == 2


def _told_reasons(skipped: Mapping[str, int]) -> str:
    told = ", ".join(f"{count} rows left out: {reason}" for reason, count in skipped.items())
    return f" ({told})" if told else ""


def same_answers(examples: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Warnings about examples that all have one answer: nothing can be learned or measured.

    Most often a comparison in a template is wrong.

    Args:
        examples: Those of each split that could be read.
    """
    answers = {split: {e.reference for e in found} for split, found in examples.items()}
    if len(set().union(*answers.values())) == 1 and sum(map(len, examples.values())) > 1:
        (answer,) = set().union(*answers.values())
        return [f"every example has the same answer: {answer[:60]!r}"]
    return [
        f"every {split} example has the same answer: {next(iter(answers[split]))[:60]!r}"
        for split, found in examples.items()
        if len(found) >= FEW and len(answers[split]) == 1
    ]


def is_test_prompt(prompt: str, every: int) -> bool:
    """Whether a prompt is on the test side of a split that the task divides itself.

    The side depends on the prompt alone, not on its position or on other rows, so it is the same
    in each copy, sample or order of a data set, and repeated prompts stay on one side: SHA-256 of
    the prompt, case and spaces evened out, modulo ``every``.

    Args:
        prompt: What the user asks.
        every: One of this many prompts is for testing.
    """
    digest = hashlib.sha256(" ".join(prompt.casefold().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % every == 0
