"""What is wrong with a task file and its rows, all at once, before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.spec.explain import DefinitionError
from epi_bench.task.dataset_task import Skipped, same_answers
from epi_bench.task.example import Example
from epi_bench.task.files.file_task import FileTask, load_task_file, register_task_file
from epi_bench.task.rows.source import SPLITS, Split
from epi_bench.task.split_overlap import trained_conversations

MOST_PROBLEMS = 10
"""Broken rows of a split that are named; the others are counted."""


@dataclass
class SplitValidation:
    """What the rows of a split make.

    Attributes:
        split: Train or test.
        origin: File or split that was read.
        rows: Rows that belong to the split.
        examples: What they make.
        skipped: Rows that make none, by reason.
        broken: Errors of rows, in order; they would stop a run.
    """

    split: Split
    origin: str = ""
    rows: int = 0
    examples: list[Example] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


@dataclass
class TaskValidation:
    """The findings about one task.

    Attributes:
        path: The task file.
        task: The task; ``None`` if the file itself is wrong.
        splits: Train and test, as far as they could be read.
        problems: What would stop a run, one line each.
        warnings: What it should know, one line each.
    """

    path: Path
    task: FileTask | None = None
    splits: list[SplitValidation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def validate_task_file(path: Path, data_dir: Path | None = None) -> TaskValidation:
    """Check a task file: its keys and templates, then every row of both splits.

    Args:
        path: The TOML file.
        data_dir: Folder with local copies of hub data sets; ``None`` for the hub.
    """
    result = TaskValidation(path)
    try:
        register_task_file(path)
        result.task = load_task_file(path)(data_dir)
    except UserError as error:
        told = error.problems if isinstance(error, DefinitionError) else [str(error)]
        result.problems = list(told)
        return result
    for split in SPLITS:
        try:
            found = _validate_split(result.task, split)
        except UserError as error:
            result.problems.append(str(error))
            continue
        result.splits.append(found)
        result.problems += found.broken[:MOST_PROBLEMS]
        if len(found.broken) > MOST_PROBLEMS:
            result.problems.append(f"{len(found.broken) - MOST_PROBLEMS} more broken {split} rows")
        if not found.examples and not found.broken:
            result.problems.append(f"{found.origin} gives no {split} example")
        result.warnings += [
            f"{count} of {found.rows} {split} rows left out: {reason}"
            for reason, count in found.skipped.items()
        ]
    result.problems = list(dict.fromkeys(result.problems))  # a shared file is read twice
    result.warnings += same_answers({found.split: found.examples for found in result.splits})
    if len(result.splits) == 2:
        train, test = (found.examples for found in result.splits)
        overlap = trained_conversations(train).overlap(test).warning()
        result.warnings += [overlap] if overlap else []
    return result


def _validate_split(task: FileTask, split: Split) -> SplitValidation:
    location = task.locate_rows(split)
    rows = task.rows_at(location)
    divided = task.is_divided(location)
    result = SplitValidation(split, str(location))
    for row in rows.chosen:
        try:
            made = task.example_from_row(row)
        except UserError as error:
            result.broken.append(str(error))
            continue
        if divided and task.side(made) != split:
            continue
        result.rows += 1
        if isinstance(made, Skipped):
            result.skipped[made.reason] += 1
        else:
            result.examples.append(made)
    result.rows += len(result.broken)
    return result
