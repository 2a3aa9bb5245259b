"""What is wrong with a specification or a TOML file, in one line that names the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from epi_bench.errors import UserError, unknown_name
from epi_bench.spec.toml_lines import TomlLines


def explain_validation(error: ValidationError, root: type[BaseModel]) -> str:
    """The first problem of a failed validation in one line, with the closest known key."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        model: Any = root
        for part in path[:-1]:
            model = model.model_fields[part].annotation
        return str(
            unknown_name("setting", where, [".".join([*path[:-1], k]) for k in model.model_fields])
        )
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {reason}" if where else reason
    return f"{where}={problem['input']!r}: {reason[0].lower()}{reason[1:]}"


class DefinitionError(UserError):
    """A file that says what cannot be.

    Attributes:
        problems: One line each; the message joins them.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def explain_in_file(
    error: ValidationError, root: type[BaseModel], path: Path, lines: TomlLines
) -> DefinitionError:
    """All problems of a failed validation, each with its line."""
    told = []
    for problem in error.errors():
        keys = [str(part) for part in problem["loc"]]
        line = lines.line(keys)
        place = f"{path} line {line}" if line else str(path)
        told.append(f"{place}: {_explain(problem, keys, root)}")
    return DefinitionError(list(dict.fromkeys(told)))


def _explain(problem: Mapping[str, Any], keys: Sequence[str], root: type[BaseModel]) -> str:
    key = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        model: Any = root
        for part in keys[:-1]:
            model = model.model_fields[part].annotation
        table = ".".join(keys[:-1])
        kind = f"key of [{table}]" if table else "key"
        return str(unknown_name(kind, keys[-1], model.model_fields))
    if problem["type"] == "missing":
        return f"{key} is missing"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {reason}" if key else reason
    return f"{key} = {problem['input']!r}: {reason[0].lower()}{reason[1:]}"
