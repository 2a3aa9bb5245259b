"""From rows to examples as a task file says."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from epi_bench.dataset_task import Skipped
from epi_bench.errors import UserError
from epi_bench.row import Row
from epi_bench.task import Example, Message
from epi_bench.task_definition import DefinitionFile
from epi_bench.task_template import TextTemplate, TextTemplateError

_TEXTS = ("prompt", "answer", "system", "reference")
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

    def example(self, row: Row) -> Example | Skipped:
        """The example that a row makes, or why it makes none.

        Raises:
            UserError: If a column is missing, a template cannot be filled in, or the answer is
                none of the options; the row's file and line are named.
        """
        values = self._values(row)
        options = self._options_of(row, values)
        if options:
            values["options"] = list(options)
        messages = self._messages(row, values)
        if isinstance(messages, Skipped):
            return messages
        if options and len(set(options)) < 2:
            return Skipped("fewer than two different options")
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
            return TextTemplate(source)
        except TextTemplateError as error:
            place = self._file.place("example", key, text_line=error.line)
            raise UserError(f"{place}: template of {key}: {error.problem}") from error

    def _values(self, row: Row) -> dict[str, Any]:
        """Every column by its name, those of ``[columns]`` by their new names, and the row."""
        values = dict(row.fields)
        for name, column in self._columns.items():
            if column in row.fields:
                values[name] = row.fields[column]
        values["row"] = dict(row.fields)
        return values

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
        column = self._columns.get(name, name)
        known = [*self._columns, *row.fields]
        close = get_close_matches(column, known, n=1, cutoff=0.5)
        remedy = f" (did you mean {close[0]!r}?)" if close else ""
        return f"there is no column {column!r}{remedy}; the columns are {', '.join(row.fields)}"

    def _column(self, key: str, name: str, row: Row) -> Any:
        column = self._columns.get(name, name)
        if column not in row.fields:
            place = self._file.place("example", key)
            raise row.error(f"lacks what {key} names ({place}): {self._missing(name, row)}")
        return row.fields[column]

    def _options_of(self, row: Row, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The options in the order in which a position or letter counts them."""
        source = self._texts.options
        if source is None:
            return ()
        if isinstance(source, str):
            listed = self._column("options", source, row)
            if not isinstance(listed, Sequence) or isinstance(listed, str):
                raise row.error(f"has no list of options in column {source!r}")
            texts = [str(option).strip() for option in listed]
        else:
            texts = [self._fill("options", row, values, t).strip() for t in self._options]
        if not all(texts):
            raise row.error("has an empty option")
        return tuple(texts)

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
            if form == "index" and given.isdecimal():
                position = int(given[:6])
            if 0 <= position < len(options):
                return options[position]
        raise row.error(
            f"has the answer {given[:60]!r}, which is no {form} of the options "
            f"{', '.join(map(repr, options))}"
        )


def _conversation(row: Row, turns: Any) -> list[Message] | Skipped:
    """Messages of ``role`` and ``content``, or of ``from`` and ``value`` as in ShareGPT files."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise row.error("has no list of messages")
    messages: list[Message] = []
    for turn in turns:
        fields = turn if isinstance(turn, Mapping) else {}
        role, content = fields.get("role", fields.get("from")), fields.get("content")
        content = fields.get("value") if content is None else content
        if not isinstance(role, str) or not isinstance(content, str):
            raise row.error("has a message without the texts 'role' and 'content'")
        messages.append({"role": _ROLES.get(role, role), "content": content})
    roles = [message["role"] for message in messages]
    roles = roles[1:] if roles[0] == "system" else roles
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return Skipped("roles do not alternate from user to assistant")
    if any(not message["content"].strip() for message in messages[:-1]):
        return Skipped("empty message")
    return messages
