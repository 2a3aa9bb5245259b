"""Tasks that a TOML file describes: a data set of the user's own, without code."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from epi_bench.errors import UserError
from epi_bench.spec.toml import is_file_name
from epi_bench.task.dataset_task import DatasetTask, Skipped
from epi_bench.task.example import Example, Prediction
from epi_bench.task.files.definition import DefinitionFile, TaskDefinition, read_definition
from epi_bench.task.files.example_maker import ExampleMaker
from epi_bench.task.files.suites import builtin_suites
from epi_bench.task.rows.locate import Location, Rows
from epi_bench.task.rows.row import Row
from epi_bench.task.rows.source import DataSource, Split
from epi_bench.task.rows.tables import read_table
from epi_bench.task.task import TASKS, Task, TaskCard
from epi_bench.task.text_scores import score_text


class FileTask(DatasetTask):
    """Base of tasks made of task files; :func:`load_task_file` makes a subclass of each file.

    Attributes:
        file: The task file.
        maker: Turns its rows into examples.
    """

    file: ClassVar[DefinitionFile]
    maker: ClassVar[ExampleMaker]

    @property
    def scoring_settings(self) -> Mapping[str, JsonValue]:
        """The ``[scoring]`` table; whatever else the file says shows in the examples."""
        return self.file.definition.scoring.model_dump(mode="json")

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The example as the file's templates make it."""
        return self.maker.example(row)

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """The metrics that the file names."""
        scoring = self.file.definition.scoring
        if scoring.mode != "generate":
            return super().score(example, prediction)
        names = dict.fromkeys((scoring.primary, *scoring.also))
        return score_text(prediction.text, example.reference, names)

    def locate_rows(self, split: Split) -> Location:
        """The split's file beside the task file, or its place in a copy of the hub or there."""
        source = self.file.definition.source
        if source.hub is not None:
            return super().locate_rows(split)
        name = source.test if split == "test" and source.test else source.train
        return Location("file", str(self.file.path.parent / Path(name).expanduser()))

    def rows_at(self, location: Location) -> Rows:
        """All rows of the file or split.

        Raises:
            UserError: If they cannot be read, or do not have the columns that the file names.
        """
        source = self.file.definition.source
        if source.hub is not None and location.kind != "file":
            found = super().rows_at(location)
            rows = iter(found.chosen)  # one at a time; every row of a table has its columns
            first = list(islice(rows, 1))
            self.maker.check_columns(first)
            return Rows(found.total, chain(first, rows))
        if source.hub is not None:
            listed = list(super().rows_at(location).chosen)
        else:
            try:
                listed = read_table(Path(location.place), quoting=source.quoting)
            except UserError as error:
                raise UserError(f"{error} (named in {self.file.place('source')})") from error
        self.maker.check_columns(listed)
        return Rows(len(listed), listed)


def load_task_file(path: Path) -> type[FileTask]:
    """The task that a file describes; its rows are not read yet.

    Args:
        path: A TOML file, see ``docs/own_data.md``.

    Raises:
        UserError: If the file is missing or wrong; file and line are named.
    """
    file = read_definition(path)
    definition = file.definition
    members = {
        "__module__": __name__,  # its code is this package's; the file shows in its identity
        "__doc__": definition.summary,
        "name": definition.name,
        "card": _card(definition),
        "file": file,
        "maker": ExampleMaker(file),
        "test_every": definition.source.test_every,
    }
    return type(definition.name, (FileTask,), members)


def register_task_file(path: Path) -> str:
    """Make a file's task known by its name, as ``--tasks FILE`` does.

    Reading the same file again replaces the task.

    Returns:
        The task's name.

    Raises:
        UserError: If the file is wrong, or another task or a suite has that name.
    """
    task = load_task_file(path)
    name = task.name
    taken = "a suite" if name in builtin_suites() else None
    if name in TASKS.names():
        present = TASKS.get(name)
        if not issubclass(present, FileTask):
            taken = "a built-in task" if TASKS.is_builtin(name) else "a task of a plugin"
        elif present.file.path.resolve() != task.file.path.resolve():
            taken = f"the task of {present.file.path}"
    if taken:
        raise UserError(
            f"{task.file.place('name')}: the name {name!r} belongs to {taken}: choose another"
        )
    TASKS.register(name)(task)
    return name


def task_type(name: str) -> type[Task]:
    """The task of that name, or that a ``.toml`` file describes.

    Raises:
        UserError: If there is none.
    """
    return TASKS.get(register_task_file(Path(name)) if is_file_name(name) else name)


def _card(definition: TaskDefinition) -> TaskCard:
    scoring, options = definition.scoring, definition.example.options
    chance = scoring.chance
    if chance is None and scoring.mode == "choice" and isinstance(options, tuple):
        chance = 100 / len(options)
    return TaskCard(
        summary=definition.summary or f"described in {definition.name}",
        ability=definition.ability,
        scoring=scoring.mode,
        metric=scoring.primary,
        licence=definition.licence,
        max_new_tokens=scoring.max_new_tokens,
        chance=chance,
        source=_hub_source(definition),
    )


def _hub_source(definition: TaskDefinition) -> DataSource | None:
    source = definition.source
    if source.hub is None:
        return None
    splits: dict[Split, str] = {"train": source.train, "test": source.test or source.train}
    folder = source.hub.rpartition("/")[2]
    return DataSource(
        hub_id=source.hub,
        config=source.config,
        revision=source.revision or "main",
        splits=splits,
        files={
            ours: (f"{folder}/{theirs}.jsonl", f"{folder}/{theirs}.json")
            for ours, theirs in splits.items()
        },
    )
