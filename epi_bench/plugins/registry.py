"""One registry for everything that can be plugged in: strategies, tasks and streams.

A name is found, in this order of precedence,

1. where code registered it explicitly (a decorator, or a file given with ``--plugin``),
2. as a module of the built-in package (``strategies/epi.py`` holds the strategy ``epi``),
3. as an entry point of an installed distribution.

Nothing is imported before its name is asked for, so a broken plugin can only break itself. A name
stands for one thing: a plugin cannot take a built-in's name, nor another plugin's.

A name with a colon is one of another library, such as ``lm_eval:hellaswag``: a function of ours
makes the object for it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from epi_bench.errors import UserError, foreign_code, unknown_name
from epi_bench.plugins.loading import LOADS, REGISTRIES, plugin_load
from epi_bench.plugins.session_source import is_of_session
from epi_bench.plugins.source_code import source_fingerprint

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was announced but cannot be used.

    Attributes:
        name: The name it was to be known by.
        source: The module, entry point or file it came from.
        error: What went wrong, in one line.
    """

    name: str
    source: str
    error: str


class Registry(Generic[T]):
    """Objects by name, found lazily.

    Args:
        kind: What the registry holds, in the singular; used in messages.
        package: Importable package whose public modules are the built-ins, or ``None``.
        group: Entry-point group of third-party plugins, or ``None``.
        problem: Says why an object cannot be one of these, or ``None`` if it can.
        reserved: Gives the names that mean something else on the command line.
        libraries: For each other library whose objects are known too, the prefix of their names,
            and the function that makes one from the rest of its name: ``"package.module:name"``.
    """

    def __init__(
        self,
        kind: str,
        package: str | None = None,
        group: str | None = None,
        problem: Callable[[Any], str | None] = lambda item: None,
        reserved: Callable[[], Sequence[str]] = tuple,
        libraries: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._problem = problem
        self._reserved = reserved
        self._libraries = libraries
        self._of_libraries: dict[str, T] = {}
        self._registered: dict[str, T] = {}
        self._code: dict[str, str | None] = {}
        REGISTRIES.append(self)

    def register(self, name: str) -> Callable[[Item], Item]:
        """A decorator that makes its object known as ``name``; a class's ``name`` is set to it.

        What is decorated keeps its own type for type checkers; whether it can be one of these is
        checked when it is registered.

        Registering the same name again replaces the object when it comes from the same source
        (a module that is imported twice) and is refused otherwise.

        Raises:
            UserError: If the name is not an identifier, or belongs to something else already, or
                the object cannot be one of these.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(
                f"{self.kind} name {name!r} is not usable: use letters, digits and underscores"
            )

        def decorate(item: Item) -> Item:
            known = cast(T, item)  # as the check says
            self._check(name, known)
            self._registered[name] = known
            self._code.pop(name, None)
            if isinstance(item, type):
                item.name = name  # type: ignore[attr-defined]
            if LOADS:
                LOADS[-1].registered.append((self, name))
            return item

        return decorate

    def names(self) -> list[str]:
        """Every name that can be asked for, sorted; nothing is imported to find out."""
        return sorted({*self._registered, *self._builtin_modules(), *self._entry_points()})

    def knows(self, name: str) -> bool:
        """Whether ``name`` can be asked for; of another library's name only the prefix is looked
        at."""
        return name in self.names() or self.is_of_library(name)

    def is_of_library(self, name: str) -> bool:
        """Whether ``name`` is that of another library's object, such as ``lm_eval:hellaswag``."""
        return name.partition(":")[0] in self._libraries and ":" in name

    def is_builtin(self, name: str) -> bool:
        """Whether ``name`` stands for something that the package brings along, or makes of another
        library's.

        What counts is where the object comes from: the built-in module must hold it.
        """
        if self.is_of_library(name):
            return True
        if name in self._registered:
            return _is_own(self._registered[name])
        return name in self._builtin_modules()

    def is_found_by_name(self, name: str) -> bool:
        """Whether any process finds ``name``: a built-in, a task file, or an installed plugin."""
        if self.is_of_library(name):
            return True
        if name in self._registered:
            module = getattr(self._registered[name], "__module__", None) or ""
            own = module == "epi_bench" or module.startswith("epi_bench.")
            return own or name in self._entry_points()
        return name in self.names()

    def code_fingerprint(self, name: str) -> str | None:
        """SHA-256 of a plugin's source, see :mod:`.source_code`; ``None`` for a built-in.

        It is the source as it was when the plugin was loaded.

        Raises:
            UserError: If the name is unknown, or its source lies in no file.
        """
        item = self.get(name)
        if self.is_builtin(name):
            return None
        if is_of_session(item):  # what it names may have been defined again since
            return source_fingerprint(item)
        if name not in self._code:
            self._code[name] = source_fingerprint(item)
        return self._code[name]

    def get(self, name: str) -> T:
        """The object registered as ``name``, imported now if it was not before.

        Raises:
            UserError: If the name is unknown (with the closest known ones), or its plugin fails.
        """
        if name in self._registered:
            return self._registered[name]
        if self.is_of_library(name):
            return self._from_library(name)
        if name in self._builtin_modules():
            module = f"{self.package}.{name}"
            with foreign_code(f"{self.kind} {name!r} ({module}) fails to import"):
                importlib.import_module(module)
            if name not in self._registered:
                raise UserError(f"{module} does not register a {self.kind} {name!r}")
            return self._registered[name]
        points = self._entry_points().get(name)
        if points:
            return self._load_entry_point(points)
        raise unknown_name(self.kind, name, self.names())

    def load_all(self) -> tuple[dict[str, T], list[BrokenPlugin]]:
        """Every usable object by name, and the plugins that failed to load."""
        loaded: dict[str, T] = {}
        broken: list[BrokenPlugin] = []
        for name in self.names():
            points = self._entry_points().get(name, [])
            source = points[0].value if points else name
            try:
                loaded[name] = self.get(name)
            except UserError as error:
                broken.append(BrokenPlugin(name, source, str(error)))
            if points and self.is_builtin(name):
                message = (
                    f"{self.kind} plugin {name!r} ({source}) is named like a built-in: rename it"
                )
                broken.append(BrokenPlugin(name, source, message))
        return loaded, broken

    def content(self) -> tuple[dict[str, T], dict[str, str | None]]:
        """What is registered now, and the hashes of its source, for :meth:`go_back_to`."""
        return dict(self._registered), dict(self._code)

    def go_back_to(self, content: tuple[dict[str, T], dict[str, str | None]]) -> None:
        """Forget what was registered since; built-ins stay, for they are not imported twice."""
        items, self._code = content
        own = {name: item for name, item in self._registered.items() if self.is_builtin(name)}
        self._registered = {**items, **own}

    def note_code(self, name: str, fingerprint: str | None) -> None:
        """Keep the hash of what ``name`` was loaded from."""
        self._code[name] = fingerprint

    def _from_library(self, name: str) -> T:
        prefix, _, member = name.partition(":")
        if name not in self._of_libraries:
            module, _, function = self._libraries[prefix].partition(":")
            make = getattr(importlib.import_module(module), function)
            self._of_libraries[name] = make(member)
        return self._of_libraries[name]

    def _check(self, name: str, item: T) -> None:
        """Refuse an object that is not one of these, or whose name is taken."""
        problem = self._problem(item)
        if problem:
            raise UserError(f"{self.kind} {name!r} {problem}")
        present = self._registered.get(name)
        same_source = present is not None and (
            _origin(present) == _origin(item)
            or (is_of_session(present) and is_of_session(item))  # a notebook's cell is run again
        )
        own = same_source or getattr(item, "__module__", None) == f"{self.package}.{name}"
        if self.is_builtin(name) and not own:
            raise UserError(
                f"{_shown(item)} is named like the built-in {self.kind} {name!r}: rename it"
            )
        if not own and name in self._reserved():
            raise UserError(
                f"{_shown(item)}: {name!r} means something else than a {self.kind}: rename it"
            )
        twice = bool(LOADS) and (self, name) in LOADS[-1].registered and present is not item
        if present is not None and (twice or not same_source):
            raise UserError(
                f"two {self.kind} plugins are named {name!r}: "
                f"{_shown(present)} and {_shown(item)}; rename one"
            )
        others = [n for n, known in self._registered.items() if known is item and n != name]
        if others:
            raise UserError(
                f"{_shown(item)} is the {self.kind} {others[0]!r} already: "
                f"register a subclass of it as {name!r}"
            )

    def _builtin_modules(self) -> set[str]:
        if self.package is None:
            return set()
        package = importlib.import_module(self.package)
        return {
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_")
        }

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """By name; several where distributions announce different objects."""
        if self.group is None:
            return {}
        points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            same = points.setdefault(point.name, [])
            if point.value not in [known.value for known in same]:
                same.append(point)
        return points

    def _load_entry_point(self, points: Sequence[EntryPoint]) -> T:
        point = points[0]
        if len(points) > 1:
            raise UserError(
                f"several installed packages bring a {self.kind} {point.name!r}: "
                f"{', '.join(p.value for p in points)}; uninstall all but one"
            )
        with plugin_load(point.module, f"{self.kind} plugin {point.name!r} ({point.value})"):
            item = point.load()
            if self._registered.get(point.name) is None:
                self.register(point.name)(item)
        return self._registered[point.name]


def abstract_methods(cls: type) -> str | None:
    """What a class that cannot be made lacks, to follow its name in a message; else ``None``."""
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"does not define {', '.join(f'{name}()' for name in missing)}" if missing else None


def _is_own(item: object) -> bool:
    """Whether a module of this package holds the object under its own name."""
    module = getattr(item, "__module__", "") or ""
    if not module.startswith("epi_bench."):
        return False
    return getattr(sys.modules.get(module), getattr(item, "__qualname__", ""), None) is item


def _origin(item: object) -> str:
    module = getattr(item, "__module__", "?")
    return f"{module}.{getattr(item, '__qualname__', repr(item))}"


def _shown(item: object) -> str:
    """The same for a message: name and file."""
    module = getattr(item, "__module__", None) or "?"
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{getattr(item, '__qualname__', repr(item))} of {file or module}"
