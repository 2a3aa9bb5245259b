"""What is wrong with a specification or a file, in one line that names the place.

Every failed validation of this package is put into words here, whether it comes from a flag, a
TOML file, a run record or the Python API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from epi_bench.errors import LONGEST_VALUE, UserError, unknown_name, validation_reason
from epi_bench.spec.toml_lines import TomlLines


class DefinitionError(UserError):
    """A file with invalid settings.

    Attributes:
        problems: One line each; the message joins them.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def explain_validation(
    error: ValidationError, root: type[BaseModel], prefix: str = ""
) -> UserError:
    """The error to raise for a failed validation: its first problem, and how many more there are.

    Args:
        error: What pydantic raised.
        root: The model that was validated.
        prefix: What the message begins with, such as the file; ends with a colon and a space.
    """
    first, *others = error.errors()
    more = f" (and {len(others)} more)" if others else ""
    unknown = first["type"] == "extra_forbidden"
    setting = () if unknown or not first["loc"] else ".".join(map(str, first["loc"]))
    return UserError(f"{prefix}{explain_problem(first, root)}{more}", setting=setting)


def explain_in_file(
    error: ValidationError, root: type[BaseModel], path: Path, lines: TomlLines
) -> DefinitionError:
    """All problems of a failed validation, each with its line."""
    explained = []
    for problem in error.errors():
        line = lines.line([str(part) for part in problem["loc"]])
        place = f"{path} line {line}" if line else str(path)
        explained.append(f"{place}: {explain_problem(problem, root)}")
    return DefinitionError(list(dict.fromkeys(explained)))


def explain_problem(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One problem of a failed validation: the place, its value if that is short, and the reason.

    Args:
        problem: One of ``ValidationError.errors()``.
        root: The model that was validated; gives the names that would have been accepted.
    """
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    reason = validation_reason(problem)
    if problem["type"] == "extra_forbidden":
        known = {name for model in _models_at(root, path[:-1]) for name in model.model_fields}
        return str(unknown_name("setting", where, [".".join([*path[:-1], k]) for k in known]))
    if problem["type"] == "missing":
        return f"{where} is missing"
    if not where or f"{where}." in reason:
        return reason
    if problem["type"] == "value_error" or not _is_short(problem["input"]):
        return f"{where}: {reason}"
    return f"{where}={problem['input']!r}: {reason}"


def _is_short(value: object) -> bool:
    """Whether a message may repeat a value: prompts and tables would fill the screen."""
    try:
        return not isinstance(value, Mapping) and len(repr(value)) <= LONGEST_VALUE
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return False


def _models_at(annotation: Any, path: Sequence[str]) -> list[type[BaseModel]]:
    """The models that may stand at a place below a type; several in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return [annotation]
        field = annotation.model_fields.get(path[0])
        return _models_at(field.annotation, path[1:]) if field else []
    holds_parts = get_origin(annotation) in (dict, list, tuple, Mapping, Sequence)
    below = path[1:] if holds_parts else path
    return [model for inner in get_args(annotation) for model in _models_at(inner, below)]
