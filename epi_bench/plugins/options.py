"""Keyword arguments of strategies, tasks and streams as user-settable options.

A constructor's signature is the single place where an option is declared: its name, type and
default are read from there, its meaning from the docstring (in Google's, NumPy's or Sphinx's
style).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, get_type_hints

from epi_bench.errors import (
    UserError,
    foreign_code,
    short_repr,
    unknown_name,
    validation_reason,
)

if TYPE_CHECKING:
    from pydantic import JsonValue


MOST_BITS = 63
"""Of an integer, beside its sign: what TOML and torch hold."""


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword argument that a user may set.

    Attributes:
        name: As written after ``--set``.
        annotation: Its type.
        default: Its default value.
        description: From the docstring; empty if it says nothing.
    """

    name: str
    annotation: Any
    default: Any
    description: str

    @property
    def type_name(self) -> str:
        """The type as a reader would write it."""
        return inspect.formatannotation(self.annotation).replace("typing.", "")


def options_of(target: Callable[..., Any], skip: int = 0) -> dict[str, Option]:
    """The options of a class or function, in the order of its signature.

    Args:
        target: A class, whose constructor is read, or a function.
        skip: How many leading parameters are not the user's.

    Raises:
        UserError: If there is no signature, or a type is written as text that names nothing.
    """
    function: Any = target.__init__ if inspect.isclass(target) else target
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function):  # an object that can be called
        function = function.__call__
    name = getattr(target, "__qualname__", None) or getattr(function, "__qualname__", repr(target))
    with foreign_code(f"the options of {name} cannot be read"):
        parameters = [
            parameter
            for parameter in inspect.signature(target).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ][skip:]
    with foreign_code(f"the types of the options of {name} cannot be read"):
        hints = get_type_hints(function) if parameters else {}
    descriptions: dict[str, str] = {}
    for source in (target, function):
        descriptions |= argument_descriptions(inspect.getdoc(source) or "")
    return {
        parameter.name: Option(
            parameter.name,
            hints.get(parameter.name, Any),
            parameter.default,
            descriptions.get(parameter.name, ""),
        )
        for parameter in parameters
    }


def check_options(
    owner: str, target: Callable[..., Any], values: Mapping[str, Any], skip: int = 0
) -> dict[str, Any]:
    """Values checked against the declared types and converted to them.

    Args:
        owner: Whose options they are, for messages, such as ``"strategy 'epi'"``.
        target: The class or function that declares them.
        values: As the user gave them; strings are parsed.
        skip: How many leading parameters of ``target`` are not the user's.

    Raises:
        UserError: For an unknown option (with the closest known ones), a value of a wrong type, or
            an option without default that is not given.
    """
    known = options_of(target, skip)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"option of {owner}", name, known)
        checked[name] = _convert(owner, known[name], value)
    for name, option in known.items():
        if option.default is inspect.Parameter.empty and name not in checked:
            raise UserError(f"{owner}: {name} has no default, so it must be set: {name}=VALUE")
    return checked


def complete_options(
    owner: str, target: Callable[..., Any], values: Mapping[str, Any], skip: int = 0
) -> dict[str, JsonValue]:
    """All options of a target as JSON values: the given ones checked, the others at their default.

    So a default that is written out equals one that is left out. An option that ``target`` names
    in ``later_options`` is left out as long as it has the value that all runs had before there
    was such an option: they stay the same runs. Arguments and errors as :func:`check_options`.
    """
    defaults = {name: option.default for name, option in options_of(target, skip).items()}
    given = check_options(owner, target, values, skip)
    complete = {name: _plain(owner, name, v) for name, v in {**defaults, **given}.items()}
    later: Mapping[str, JsonValue] = getattr(target, "later_options", {})
    return {k: value for k, value in complete.items() if k not in later or value != later[k]}


def changed_options(
    owner: str, target: Callable[..., Any], values: Mapping[str, Any], skip: int = 0
) -> dict[str, JsonValue]:
    """The given options that differ from their defaults, as JSON values.

    For what had no options at first: as long as everything has its default, nothing is said.
    Arguments and errors as :func:`check_options`.
    """
    defaults = {name: option.default for name, option in options_of(target, skip).items()}
    return {
        name: value
        for name, value in sorted(given_options(owner, target, values, skip).items())
        if defaults[name] is inspect.Parameter.empty or value != _plain(owner, name, defaults[name])
    }


def given_options(
    owner: str, target: Callable[..., Any], values: Mapping[str, Any], skip: int = 0
) -> dict[str, JsonValue]:
    """The given options as JSON values; arguments and errors as :func:`check_options`."""
    checked = check_options(owner, target, values, skip)
    return {name: _plain(owner, name, value) for name, value in checked.items()}


def _plain(owner: str, name: str, value: Any) -> JsonValue:
    """An option's value as a record keeps it."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()  # fails for half of a surrogate pair
        plain: JsonValue = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            f"{owner}: a record cannot keep {name}={short_repr(value)}: use finite numbers, "
            "Unicode text or lists"
        ) from None
    return plain


def _convert(owner: str, option: Option, value: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # slow: only when needed

    adapter = TypeAdapter(option.annotation, config=ConfigDict(arbitrary_types_allowed=True))
    if isinstance(value, str) and value.lower() in ("none", "null"):
        try:
            return adapter.validate_python(None)
        except ValidationError:
            pass  # no value may be left out here: it is the word itself
    try:
        if isinstance(value, str) and "tuple" in option.type_name:
            value = tuple(part.strip() for part in value.split(",")) if value.strip() else ()
        converted = adapter.validate_python(value)
    except ValidationError as error:
        reason = validation_reason(error.errors()[0])
        raise UserError(
            f"{owner}: {option.name}={short_repr(value)} is not a valid {option.type_name}: "
            f"{reason}"
        ) from error
    if isinstance(converted, int) and converted.bit_length() > MOST_BITS:
        raise UserError(
            f"{owner}: {option.name}={short_repr(converted)}: integers have at most {MOST_BITS} "
            "bits"
        )
    return converted


@lru_cache(maxsize=256)
def argument_descriptions(documentation: str) -> Mapping[str, str]:
    """What a docstring says of each argument, one line each; a malformed one says nothing.

    >>> dict(argument_descriptions("Sums.\\n\\nArgs:\\n    first: What\\n        to add to."))
    {'first': 'What to add to.'}
    """
    from docstring_parser import ParseError, parse  # 0.04 s: not for every command

    try:
        found = parse(documentation).params
    except ParseError:  # the meaning of an option is only shown: no run depends on it
        return {}
    return {
        item.arg_name: " ".join((item.description or "").split())
        for item in found
        if item.args[0] == "param"
    }
