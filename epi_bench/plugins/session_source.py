"""The source of what is defined in a notebook's cell or at a prompt, which lies in no file.

Python keeps the text of cells in ``linecache``. Counted of an object are its own definition and,
of what that names, the functions and classes of the session, constants (numbers, text, and lists
and tables of them) and local modules; and so on with what those name.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from epi_bench.errors import UserError

SESSION = "__main__"


@dataclass
class SessionSource:
    """The source of an object of the session.

    Attributes:
        parts: Text of each definition and value of each constant, by name.
        modules: Modules whose names the definitions use.
    """

    parts: dict[str, str] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)


def is_of_session(item: object) -> bool:
    """Whether an object was defined in a notebook, at a prompt, or otherwise without a file."""
    while isinstance(item, functools.partial):
        item = item.func
    session = sys.modules.get(SESSION)
    return (
        getattr(item, "__module__", None) == SESSION and getattr(session, "__file__", None) is None
    )


def session_source(item: Any) -> SessionSource:
    """Everything of the session that an object's code is made of.

    Raises:
        UserError: If its text is nowhere to be found, as after ``python -c``.
    """
    source = SessionSource()
    waiting = [item]
    while waiting:
        current = waiting.pop()
        name = current.__qualname__
        if name in source.parts:
            continue
        source.parts[name] = _definition(current)
        waiting += _named(source, source.parts[name])
    return source


def _named(source: SessionSource, text: str) -> list[Any]:
    """Functions and classes of the session that a text names; the rest of it is noted down."""
    found = []
    values = vars(sys.modules[SESSION])
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    for name in sorted(names & values.keys()):
        value = values[name]
        if isinstance(value, ModuleType):
            source.modules.add(value.__name__)
        elif inspect.isclass(value) or inspect.isroutine(value):
            if is_of_session(value):
                found.append(value)
            elif value.__module__:
                source.modules.add(value.__module__)
        elif (constant := _constant(value)) is not None:
            source.parts[name] = constant
    return found


def _constant(value: object) -> str | None:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None


def _definition(item: Any) -> str:
    """The text of a class or function, its decorators included."""
    name = item.__qualname__
    for cell in _cells_of(item):
        text = "".join(linecache.getlines(cell))
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        for node in reversed(tree.body):
            if getattr(node, "name", None) == name:
                return _segment(text, node)
    raise UserError(
        f"{name!r} is defined without a file, and its source cannot be read, so no run's identity "
        "could cover its code: write it into a Python file and give that as a plugin"
    )


def _segment(text: str, node: Any) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def _cells_of(item: Any) -> Iterator[str]:
    """Names of the cells that may define an object, the likeliest first."""
    for member in vars(item).values() if inspect.isclass(item) else (item,):
        function = _plain(member)
        if inspect.isroutine(function) and function.__module__ == SESSION:
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is not None:
                yield code.co_filename
    # a class without a method of its own: the last cell that defines one of its name
    yield from [name for name in reversed(list(linecache.cache)) if not Path(name).is_file()]


def _plain(function: Any) -> Any:
    """The function behind a method."""
    if isinstance(function, classmethod | staticmethod):
        return function.__func__
    if isinstance(function, property):
        return function.fget
    return function.func if isinstance(function, functools.partial) else function
