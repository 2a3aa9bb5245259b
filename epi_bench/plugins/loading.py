"""Importing plugins: whole or not at all, and whatever they do, one error.

A plugin's file may raise anything, end the process with ``sys.exit`` or register half of what it
holds before it fails. What it registered is taken back then.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

from epi_bench.errors import UserError, foreign_code
from epi_bench.plugins.effects import changed_members, package_state
from epi_bench.plugins.source_code import is_local, source_fingerprint


class PluginRegistry(Protocol):
    """What importing a plugin needs of a registry."""

    def is_builtin(self, name: str) -> bool:
        """Whether ``name`` stands for something that the package brings along."""

    def get(self, name: str) -> Any:
        """The object registered as ``name``."""

    def content(self) -> Any:
        """What is registered now."""

    def go_back_to(self, content: Any) -> None:
        """Forget what was registered since."""

    def note_code(self, name: str, fingerprint: str | None) -> None:
        """Keep the hash of what ``name`` was loaded from."""


REGISTRIES: list[PluginRegistry] = []
"""Every registry there is."""


@dataclass
class PluginLoad:
    """A plugin that is being imported.

    Attributes:
        module: Its name.
        registered: What it has registered so far.
    """

    module: str
    registered: list[tuple[PluginRegistry, str]] = field(default_factory=list)

    @property
    def plugins(self) -> list[tuple[PluginRegistry, str]]:
        """The same without the built-ins that the plugin imports."""
        return [
            (registry, name) for registry, name in self.registered if not registry.is_builtin(name)
        ]


LOADS: list[PluginLoad] = []
"""The plugins under import, the innermost last."""


class _SourceLoader(SourceFileLoader):
    """Compiles what the file holds now: a cached compilation may be that of an older version."""

    def get_code(self, fullname: str) -> CodeType | None:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_plugin_file(path: Path) -> None:
    """Import a user's Python file so that its decorators register what it defines.

    Args:
        path: A ``.py`` file. Loading the same file twice does nothing the second time.

    Raises:
        UserError: If the file is missing, its import fails in any way (file, line and error are
            named) or it registers nothing. Nothing of it is registered then.
    """
    try:
        file = path.expanduser().resolve()
        missing = not file.is_file()
    except (OSError, RuntimeError, ValueError):  # no such home folder, a null byte, a loop of links
        missing, file = True, path
    if missing:
        raise UserError(f"plugin file {file} does not exist")
    if file.suffix != ".py":
        raise UserError(f"plugin file {file} is not a Python file: its name must end in .py")
    module_name = f"epi_bench_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return
    loader = _SourceLoader(module_name, str(file))
    spec = importlib.util.spec_from_file_location(module_name, file, loader=loader)
    if spec is None:
        raise UserError(f"plugin file {file} is not a Python file: its name must end in .py")
    with plugin_load(module_name, f"plugin {file}", file) as load:
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        loader.exec_module(module)
        if not load.plugins:
            raise UserError(
                f"plugin {file} registers nothing: mark what it defines with "
                "@register_strategy(NAME), @register_task(NAME) or @register_stream(NAME)"
            )


def load_plugin_files(paths: Iterable[Path]) -> None:
    """Import each file; the first that fails stops.

    Raises:
        UserError: If a file is missing, fails or registers nothing.
    """
    for path in paths:
        load_plugin_file(path)


@contextmanager
def plugin_load(module: str, place: str, path: Path | None = None) -> Iterator[PluginLoad]:
    """Import a plugin inside: it is registered whole, with the hash of its source, or not at all.

    Args:
        module: The module that is imported.
        place: What to call it in messages.
        path: Its file, whose line is named where an error passed through it.

    Raises:
        UserError: For anything that goes wrong inside but Ctrl-C, in one line.
    """
    known = [(registry, registry.content()) for registry in REGISTRIES]
    modules, package = set(sys.modules), package_state()
    load = PluginLoad(module)
    LOADS.append(load)
    try:
        with foreign_code(f"{place} fails to import", path), _working_folder_kept():
            yield load
            changed = changed_members(package, _brought_along(module, modules))
            if changed:
                raise UserError(
                    f"{place} changes {changed[0]}, so that runs without it would not be the same: "
                    "a plugin may only add; derive a class of its own"
                )
            for registry, name in load.plugins:
                registry.note_code(name, source_fingerprint(registry.get(name), module))
    except BaseException:
        for registry, content in known:
            registry.go_back_to(content)
        for name in _brought_along(module, modules):
            if name == module or _is_local_module(name):
                del sys.modules[name]
        raise
    finally:
        LOADS.remove(load)


def _brought_along(plugin: str, before: Collection[str]) -> set[str]:
    """The modules of a plugin that were imported since: its own, its package's and local ones.

    Libraries that it was the first to import are not among them, nor are this package's modules.
    """
    top = plugin.partition(".")[0]
    return {
        name
        for name in set(sys.modules) - set(before)
        if name.partition(".")[0] == top or _is_local_module(name)
    }


def _is_local_module(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and is_local(Path(file))  # a module may set it to anything


@contextmanager
def _working_folder_kept() -> Iterator[None]:
    """Relative paths of the command mean the same before and after."""
    folder = None
    with suppress(OSError):  # the folder may be gone; that is for others to tell
        folder = Path.cwd()
    try:
        yield
    finally:
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)
