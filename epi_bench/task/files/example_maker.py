"""From rows to examples as a task file says."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from epi_bench.errors import UserError
from epi_bench.task.dataset_task import Skipped
from epi_bench.task.example import Example, Message
from epi_bench.task.files.definition import DefinitionFile
from epi_bench.task.files.template_values import MissingValueError
from epi_bench.task.files.text_template import TextTemplate, TextTemplateError
from epi_bench.task.rows.row import (
    Row,
    is_missing,
    shown_names,
    shown_value,
)

_TEXTS = ("prompt", "answer", "system", "reference")
_POSITION = re.compile(r"[0-9]{1,9}(\.0+)?")  # tables with a missing value write 1 as 1.0
_ROLES = {"human": "user", "gpt": "assistant"}


class ExampleMaker:
    """Makes examples of rows.

    Args:
        file: The task file; its templates are compiled here.

    Raises:
        UserError: If a template is wrong; its line is named.
    """

    def __init__(self, file: DefinitionFile) -> None:
        self._file = file
        self._texts = file.definition.example
        self._columns = file.definition.columns
        self._templates: dict[str, TextTemplate] = {}
        for name in _TEXTS:
            source = getattr(self._texts, name)
            if source is not None:
                self._templates[name] = self._compiled(name, source)
        options = self._texts.options
        self._options = [
            self._compiled("options", source)
            for source in (options if isinstance(options, tuple) else ())
        ]

    def check_columns(self, rows: Sequence[Row]) -> None:
        """Check what concerns all rows together, before examples are made of them.

        Raises:
            UserError: If a column of ``[columns]`` does not exist, or a column holds lists in some
                rows and other values in others; then one of each is named.
        """
        columns = dict.fromkeys(name for row in rows for name in (row.columns or row.fields))
        for name, column in self._columns.items():
            if rows and column not in columns:
                raise UserError(
                    f"{self._file.place('columns', name)}: "
                    f"{_no_such_column(column, columns, columns)}"
                )
        templates = [*self._templates.values(), *self._options]
        names = {name for template in templates for name in template.variables}
        used = columns if "row" in names else {self._columns.get(name, name) for name in names}
        for column in columns:
            if column in used:
                _refuse_mixed_kinds(column, rows)

    def example(self, row: Row) -> Example | Skipped:
        """The example that a row makes, or why it makes none.

        A row makes none where a value that it needs is missing or empty.

        Raises:
            UserError: If a column does not exist, a template cannot be filled in, a value is of
                the wrong kind, or the answer is none of the options; and for a row that makes no
                example, if the file says ``on_missing = "error"``. The row's file and line are
                named.
        """
        try:
            made = self._example(row)
        except MissingValueError as error:
            made = Skipped(str(error.message))
        if isinstance(made, Skipped) and self._file.definition.source.on_missing == "error":
            place = self._file.place("source", "on_missing")
            raise row.error(f"makes no example: {made.reason} (on_missing is 'error' in {place})")
        return made

    def _example(self, row: Row) -> Example | Skipped:
        values = self._values(row)
        options = self._options_of(row, values)
        if not all(options):
            return Skipped("empty option")
        if self._texts.options is not None and len(set(options)) < 2:
            return Skipped("fewer than two different options")
        if options:
            values["options"] = list(options)
        messages = self._messages(row, values)
        if isinstance(messages, Skipped):
            return messages
        answer = messages[-1]["content"]
        if not answer.strip():
            return Skipped("empty answer")
        if options:
            answer = self._chosen(row, answer, options)
            messages[-1]["content"] = answer
        reference = answer
        if "reference" in self._templates:
            reference = self._fill("reference", row, values)
            if not reference.strip():
                return Skipped("empty reference")
            if options:
                reference = self._chosen(row, reference, options)
        different = tuple(dict.fromkeys(options))  # one that a row prints twice is scored once
        return Example(tuple(messages), reference, different, {"row": row.index})

    def _compiled(self, key: str, source: str) -> TextTemplate:
        try:
            return TextTemplate(source, optional_values=key in ("prompt", "system"))
        except TextTemplateError as error:
            place = self._file.place("example", key, text_line=error.line)
            raise UserError(f"{place}: template of {key}: {error.problem}") from error

    def _values(self, row: Row) -> dict[str, Any]:
        """Every column by its name, those of ``[columns]`` by their new names, and the row.

        A column that this row lacks and others have is there, without a value.
        """
        fields = {**dict.fromkeys(row.columns), **row.fields}
        renamed = {n: fields[column] for n, column in self._columns.items() if column in fields}
        return {**fields, **renamed, "row": fields}

    def _fill(
        self, key: str, row: Row, values: Mapping[str, Any], template: TextTemplate | None = None
    ) -> str:
        template = template or self._templates[key]
        try:
            return template.render(values)
        except TextTemplateError as error:
            missing = sorted(template.variables - set(values))
            problem = self._missing(missing[0], row) if missing else error.problem
            place = self._file.place("example", key, text_line=error.line)
            raise row.error(f"does not fit the template of {key} ({place}): {problem}") from error

    def _missing(self, name: str, row: Row) -> str:
        columns = row.columns or row.fields
        known = [*self._columns, *columns]
        problem = _no_such_column(self._columns.get(name, name), columns, known)
        inner = [name for name, value in row.fields.items() if _holds_rows(value)]
        hint = f" (are the rows the list in {inner[0]!r}? save that list alone)" if inner else ""
        return problem + hint

    def _column(self, key: str, name: str, row: Row) -> Any:
        """The value of a column that the file names outside of templates."""
        column = self._columns.get(name, name)
        if not row.has_column(column):
            place = self._file.place("example", key)
            raise row.error(f"lacks what {key} names ({place}): {self._missing(name, row)}")
        if not row.has(column):
            raise MissingValueError(f"no value for {name!r}")
        return row.fields[column]

    def _options_of(self, row: Row, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The options in the order in which a position or letter counts them."""
        source = self._texts.options
        if source is None:
            return ()
        if isinstance(source, str):
            return tuple(self._listed_options(source, row))
        return tuple(self._fill("options", row, values, t).strip() for t in self._options)

    def _listed_options(self, source: str, row: Row) -> list[str]:
        listed = self._column("options", source, row)
        if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
            raise row.error(
                f"has no list of options in column {source!r} but {shown_value(listed)}"
            )
        for option in listed:
            if is_missing(option):
                raise MissingValueError(f"no value for an option in {source!r}")
            if not isinstance(option, str | int | float):
                raise row.error(f"has an option that is no text but {shown_value(option)}")
        return [str(option).strip() for option in listed]

    def _messages(self, row: Row, values: Mapping[str, Any]) -> list[Message] | Skipped:
        if self._texts.messages is not None:
            return _conversation(row, self._column("messages", self._texts.messages, row))
        prompt = self._fill("prompt", row, values)
        if not prompt.strip():
            return Skipped("empty prompt")
        answer = self._fill("answer", row, values)
        messages: list[Message] = []
        if "system" in self._templates:
            system = self._fill("system", row, values)
            if system.strip():
                messages.append({"role": "system", "content": system})
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": answer})
        return messages

    def _chosen(self, row: Row, answer: str, options: Sequence[str]) -> str:
        """The option that an answer means."""
        form, given = self._texts.answer_form, answer.strip()
        if form == "text":
            same = [option for option in options if option.casefold() == given.casefold()]
            if given in options or same:
                return given if given in options else same[0]
        else:
            letters = string.ascii_uppercase
            position = letters.find(given.upper()) if form == "letter" and len(given) == 1 else -1
            if form == "index" and _POSITION.fullmatch(given):
                position = int(float(given))
            if 0 <= position < len(options):
                return options[position]
        raise row.error(
            f"has the answer {given[:60]!r}, which is no {form} of the options "
            f"{', '.join(map(repr, options))}"
        )


def _conversation(row: Row, turns: Any) -> list[Message] | Skipped:
    """Messages of ``role`` and ``content``, or of ``from`` and ``value`` as in ShareGPT files."""
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        raise row.error(f"has no list of messages but {shown_value(turns)}")
    messages: list[Message] = []
    for turn in turns:
        message = _message(row, turn)
        if isinstance(message, Skipped):
            return message
        messages.append(message)
    roles = [message["role"] for message in messages]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return Skipped("roles do not alternate from user to assistant")
    if any(not message["content"].strip() for message in messages[:-1]):
        return Skipped("empty message")
    return messages


def _message(row: Row, turn: Any) -> Message | Skipped:
    if is_missing(turn):
        return Skipped("empty message")
    fields = turn if isinstance(turn, Mapping) else {}
    texts = []
    for names in (("role", "from"), ("content", "value")):
        known = [fields[name] for name in names if name in fields]
        given = [value for value in known if not is_missing(value)]
        if known and not given:
            return Skipped(f"no value for {names[0]!r} of a message")
        if not given or not isinstance(given[0], str):
            raise row.error("has a message without the texts 'role' and 'content'")
        texts.append(given[0])
    role, content = texts
    return {"role": _ROLES.get(role, role), "content": content}


def _refuse_mixed_kinds(column: str, rows: Sequence[Row]) -> None:
    """A list that is a text in some rows would be taken apart letter by letter there."""
    first: tuple[str, str] | None = None
    for row in rows:
        if not row.has(column):
            continue
        kind = _kind(row.fields[column])
        if first is None:
            first = (kind, row.origin)
        elif first[0] != kind:
            shown = shown_value(row.fields[column])
            raise row.error(
                f"has {kind} in column {column!r} ({shown}), where {first[1]} has {first[0]}"
            )


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    return "a dictionary" if isinstance(value, Mapping) else "a single value"


def _no_such_column(column: str, columns: Iterable[str], known: Iterable[str]) -> str:
    close = get_close_matches(column, list(known), n=1, cutoff=0.5)
    remedy = f" (did you mean {close[0]!r}?)" if close else ""
    return f"there is no column {column!r}{remedy}; the columns are {shown_names(columns)}"
