"""What a task file says: a data set of the user's own, described in TOML instead of code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from epi_bench.errors import unknown_name
from epi_bench.spec.explain import explain_in_file
from epi_bench.spec.run_spec import Section
from epi_bench.spec.toml import read_toml_text
from epi_bench.spec.toml_lines import TomlLines
from epi_bench.task.example import Scoring
from epi_bench.task.text_scores import TEXT_SCORERS

METRICS: Mapping[Scoring, Sequence[str]] = {
    "generate": tuple(TEXT_SCORERS),
    "choice": ("acc", "acc_norm"),
    "teacher_forced": ("exact_match", "token_accuracy"),
}
"""Metrics that each scoring mode reports or can report; the first is the default, but for
``generate``, which has none."""


AnswerForm = Literal["text", "index", "letter"]


class SourceTable(Section):
    """Where the rows lie.

    Attributes:
        hub: Data set on the Hugging Face hub; ``None`` for files.
        config: Its configuration.
        revision: Its branch, tag or commit.
        train: File relative to the task file, or split of the hub data set.
        test: The same for the test examples. Without it, ``train`` is divided by the hash of
            each prompt.
        test_every: One prompt in so many is for testing, where ``train`` is divided.
        quoting: Whether double quotes enclose cells of a ``.csv`` or ``.tsv`` file; ``None`` is
            yes in the one and no in the other.
        on_missing: What becomes of a row that makes no example, because a value that it needs is
            missing or empty: it is left out and counted, or it is an error.
    """

    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    train: str = Field(min_length=1)
    test: str | None = Field(default=None, min_length=1)
    test_every: int = Field(default=10, ge=2)
    quoting: bool | None = None
    on_missing: Literal["skip", "error"] = "skip"

    @model_validator(mode="after")
    def _hub_settings_need_a_hub(self) -> Self:
        if self.hub is None and (self.config or self.revision):
            raise ValueError("config and revision belong to a data set of the hub: name it in hub")
        if self.hub is not None and self.quoting is not None:
            raise ValueError("quoting belongs to .csv and .tsv files, not to a data set of the hub")
        return self


class ExampleTable(Section):
    """How a row becomes an example.

    Attributes:
        prompt: Template of the user's message.
        answer: Template of the answer to learn.
        system: Template of a system message.
        messages: Column with a whole conversation, instead of ``prompt`` and ``answer``.
        reference: Template of the text that answers are compared with; the answer if left out.
        options: Templates of the answers to choose from, or the column with their list.
        answer_form: What ``answer`` gives: the text of an option, its position from 0, or its
            letter from A.
    """

    prompt: str | None = None
    answer: str | None = None
    system: str | None = None
    messages: str | None = None
    reference: str | None = None
    options: str | tuple[str, ...] | None = None
    answer_form: AnswerForm = "text"

    @model_validator(mode="after")
    def _one_kind_of_example(self) -> Self:
        if self.messages is None:
            missing = [key for key in ("prompt", "answer") if getattr(self, key) is None]
            if missing:
                raise ValueError(
                    f"{missing[0]} is missing: give prompt and answer, or messages with the name "
                    "of a column that holds conversations"
                )
        elif self.prompt or self.answer or self.system or self.answer_form != "text":
            raise ValueError(
                "messages holds the whole conversation: leave out prompt, answer, system and "
                "answer_form"
            )
        if self.answer_form != "text" and self.options is None:
            raise ValueError(f"answer_form = {self.answer_form!r} needs options to point into")
        return self

    @field_validator("options")
    @classmethod
    def _at_least_two(cls, options: object) -> object:
        if isinstance(options, tuple) and len(set(options)) < max(2, len(options)):
            raise ValueError("give two or more different options")
        return options


class ScoringTable(Section):
    """How the model is asked and scored.

    Attributes:
        mode: ``generate``, ``choice`` or ``teacher_forced``.
        metric: The primary metric, see :data:`METRICS`.
        also: Further text scores to record (``generate`` only).
        max_new_tokens: Longest answer to generate, in tokens.
        chance: Score of a blind guess, 0 to 100; for ``choice`` with fixed options it is known.
    """

    mode: Scoring
    metric: str | None = None
    also: tuple[str, ...] = ()
    max_new_tokens: int = Field(default=256, ge=1)
    chance: float | None = Field(default=None, ge=0, lt=100)

    @model_validator(mode="after")
    def _metrics_fit_the_mode(self) -> Self:
        known = METRICS[self.mode]
        if self.mode == "generate" and self.metric is None:
            raise ValueError(f"metric is missing: choose from {', '.join(known)}")
        if self.mode != "generate" and self.also:
            raise ValueError(f"also is for generated texts; {self.mode} reports {', '.join(known)}")
        for name in (self.metric, *self.also):
            if name is not None and name not in known:
                raise ValueError(str(unknown_name(f"metric of {self.mode}", name, known)))
        return self

    @property
    def primary(self) -> str:
        """The primary metric's name."""
        return self.metric or METRICS[self.mode][0]


class TaskDefinition(Section):
    """A task file.

    Attributes:
        name: What the task is called in flags and records.
        summary: One line.
        ability: What the task stands for, such as ``mathematics``.
        licence: Of the rows.
        columns: Names for templates -> names of columns, where they differ.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=60)
    summary: str = ""
    ability: str = "not stated"
    licence: str = "not stated"
    source: SourceTable
    columns: dict[str, str] = Field(default_factory=dict)
    example: ExampleTable
    scoring: ScoringTable

    @field_validator("columns")
    @classmethod
    def _names_for_templates(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if not name.isidentifier():
                raise ValueError(f"{name!r} cannot be used in a template: it is no identifier")
            if name in ("row", "options"):
                raise ValueError(f"{name!r} means something else in templates: choose another name")
        return columns

    @model_validator(mode="after")
    def _choice_needs_options(self) -> Self:
        if self.scoring.mode == "choice" and self.example.options is None:
            raise ValueError("scoring mode choice needs options in [example]")
        return self


@dataclass(frozen=True)
class DefinitionFile:
    """A definition together with where it stands.

    Attributes:
        path: The TOML file.
        definition: Its content.
        lines: Lines of its keys.
    """

    path: Path
    definition: TaskDefinition
    lines: TomlLines

    def place(self, *keys: str, text_line: int | None = None) -> str:
        """File and line of a key, for messages; of a line inside its text, if that is given."""
        line = self.lines.line_in_text(keys, text_line)
        return f"{self.path} line {line}" if line else str(self.path)


def read_definition(path: Path) -> DefinitionFile:
    """Read and check a task file; the rows are not looked at.

    Raises:
        UserError: If it is missing, no TOML, or says something that cannot be; file and line are
            named, and the closest known key.
    """
    text, content = read_toml_text(path)
    lines = TomlLines(text)
    try:
        definition = TaskDefinition.model_validate(content)
    except ValidationError as error:
        raise explain_in_file(error, TaskDefinition, path, lines) from error
    return DefinitionFile(path, definition, lines)
