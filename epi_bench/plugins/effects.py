"""Whether importing a plugin has changed this package.

A plugin adds strategies, tasks and streams. One that replaces a function or a setting of the
package would change runs that do not use it, and their identity could not tell. Found are replaced
functions, classes and values of modules that were loaded before, and functions and classes of the
plugin in modules that it was the first to load. Changes of other libraries are not looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from types import FunctionType, ModuleType

State = Mapping[tuple[object, str], object]
"""What each loaded module and class of the package holds, by holder and name."""


def package_state() -> State:
    """The package as it is now."""
    return {(holder, name): _content(value) for holder, name, value in _members()}


def changed_members(before: State, modules: Collection[str]) -> list[str]:
    """What has been replaced since, as dotted names.

    Args:
        before: As :func:`package_state` gave it.
        modules: Those of the plugin that were imported since.
    """
    changed = []
    for holder, name, value in _members():
        if isinstance(value, ModuleType):
            continue
        known = before.get((holder, name))
        replaced = known is not None and not _same(known, _content(value))
        if replaced or getattr(_function(value), "__module__", None) in modules:
            changed.append(f"{_name(holder)}.{name}")
    return sorted(changed)


def _members() -> Iterator[tuple[object, str, object]]:
    for module_name, module in sorted(sys.modules.items()):
        if not _is_own(module_name) or module is None:
            continue
        for name, value in list(vars(module).items()):
            if name.startswith("__"):
                continue
            yield module, name, value
            if isinstance(value, type) and value.__module__ == module_name:
                for member, content in list(vars(value).items()):
                    if not member.startswith("__") or isinstance(content, FunctionType):
                        yield value, member, content


def _is_own(module: str) -> bool:
    return module == "epi_bench" or module.startswith("epi_bench.")


def _function(value: object) -> object:
    """The function behind a method, or the value itself."""
    if isinstance(value, classmethod | staticmethod):
        return value.__func__
    return value.fget if isinstance(value, property) else value


def _content(value: object) -> tuple[object, ...]:
    function = _function(value)
    if isinstance(function, FunctionType):
        return (value, function.__code__, function.__defaults__, function.__kwdefaults__)
    return (value,)


def _same(before: object, now: tuple[object, ...]) -> bool:
    return (
        isinstance(before, tuple)
        and len(before) == len(now)
        and all(one is other for one, other in zip(before, now, strict=True))
    )


def _name(holder: object) -> str:
    if isinstance(holder, type):
        return f"{holder.__module__}.{holder.__qualname__}"
    return str(getattr(holder, "__name__", holder))
