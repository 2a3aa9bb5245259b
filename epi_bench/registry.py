"""One registry for everything that can be plugged in: strategies, tasks and streams.

A name is found, in this order of precedence,

1. where code registered it explicitly (a decorator, or a file given with ``--plugin``),
2. as a module of the built-in package (``strategies/epi.py`` holds the strategy ``epi``),
3. as an entry point of an installed distribution.

Nothing is imported before its name is asked for, so a broken plugin can only break itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from epi_bench.errors import UserError, unknown_name

T = TypeVar("T")


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
    """

    def __init__(self, kind: str, package: str | None = None, group: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that makes its object known as ``name``.

        Registering the same name again replaces the object when it comes from the same source
        (a module that is imported twice) and is refused otherwise.

        Raises:
            UserError: If the name is no identifier, or belongs to something else already.
        """
        if not name.isidentifier():
            raise UserError(
                f"{self.kind} name {name!r} is not usable: use letters, digits and underscores"
            )

        def decorate(item: T) -> T:
            present = self._registered.get(name)
            if present is not None and _origin(present) != _origin(item):
                raise UserError(
                    f"two {self.kind} plugins are named {name!r}: "
                    f"{_origin(present)} and {_origin(item)}; rename one"
                )
            self._registered[name] = item
            return item

        return decorate

    def names(self) -> list[str]:
        """Every name that can be asked for, sorted; nothing is imported to find out."""
        return sorted({*self._registered, *self._builtin_modules(), *self._entry_points()})

    def is_builtin(self, name: str) -> bool:
        """Whether ``name`` is one of the built-ins that the package brings along."""
        return name in self._builtin_modules()

    def get(self, name: str) -> T:
        """The object registered as ``name``, imported now if it was not before.

        Raises:
            UserError: If the name is unknown (with the closest known ones), or its plugin fails.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin_modules():
            importlib.import_module(f"{self.package}.{name}")
            if name not in self._registered:
                raise UserError(f"{self.package}.{name} does not register a {self.kind} {name!r}")
            return self._registered[name]
        points = self._entry_points()
        if name in points:
            return self._load_entry_point(points[name])
        raise unknown_name(self.kind, name, self.names())

    def load_all(self) -> tuple[dict[str, T], list[BrokenPlugin]]:
        """Every usable object by name, and the plugins that failed to load."""
        loaded: dict[str, T] = {}
        broken: list[BrokenPlugin] = []
        for name in self.names():
            try:
                loaded[name] = self.get(name)
            except UserError as error:
                source = self._entry_points().get(name)
                broken.append(BrokenPlugin(name, source.value if source else name, str(error)))
        return loaded, broken

    def _builtin_modules(self) -> set[str]:
        if self.package is None:
            return set()
        package = importlib.import_module(self.package)
        return {
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_")
        }

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self.group is None:
            return {}
        return {point.name: point for point in entry_points(group=self.group)}

    def _load_entry_point(self, point: EntryPoint) -> T:
        try:
            item = point.load()
        except Exception as error:  # a plugin's import may raise anything; it is reported whole
            raise UserError(
                f"{self.kind} plugin {point.name!r} ({point.value}) fails to import: "
                f"{type(error).__name__}: {error}"
            ) from error
        if point.name not in self._registered:
            self._registered[point.name] = item
        return self._registered[point.name]


def load_plugin_file(path: Path) -> None:
    """Import a user's Python file so that its decorators register what it defines.

    Args:
        path: A ``.py`` file. Loading the same file twice does nothing the second time.

    Raises:
        UserError: If the file is missing or its import fails (file, line and error are named).
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"plugin file {path} does not exist")
    module_name = f"epi_bench_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin file {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a plugin's import may raise anything; it is reported whole
        del sys.modules[module_name]
        line = _last_line_in(error, path)
        where = f"{path}:{line}" if line else str(path)
        raise UserError(
            f"plugin {where} fails to import: {type(error).__name__}: {error}"
        ) from error


def _last_line_in(error: BaseException, path: Path) -> int | None:
    """The line of ``path`` that raised ``error``, if the error passed through that file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _origin(item: object) -> str:
    module = getattr(item, "__module__", "?")
    return f"{module}.{getattr(item, '__qualname__', repr(item))}"
