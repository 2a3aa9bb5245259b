"""The source code of plugins, as far as it belongs to a run's identity.

What is hashed of an object that a plugin brings:

- the file or package that registered it and the one that defines it, and those of its base
  classes; of a package all of its modules, because they may be imported by name at any time;
- the local files and packages that those import, wherever the ``import`` stands, and so on. Local
  is what is neither in the standard library nor installed into ``site-packages``.

Of what is defined in a notebook's cell, the text is hashed: see :mod:`session_source`.

Installed libraries are left out; so are data files that a plugin reads and modules that it imports
by a computed name from outside its own package. The built-in strategies, tasks and streams are
covered by the versions that the identity holds (``TRAINING_PROTOCOL``, ``TaskCard.version``).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.plugins.session_source import is_of_session, session_source

CODE_ENDINGS = (".py", ".so", ".pyd")
"""Files of a package that hold code."""


@dataclass(frozen=True)
class _Unit:
    """Code that is hashed together: one file, or all modules of a package.

    Attributes:
        label: Name that goes into the hash; empty for a plugin's own file, which may be renamed.
        places: The file, or the folders of the package.
    """

    label: str
    places: tuple[Path, ...]

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name and path of every file, in a fixed order."""
        for place in self.places:
            if place.is_file():
                yield self.label, place
                continue
            for path in sorted(place.rglob("*")):
                inside = path.relative_to(place)
                skipped = any(_is_installed(part) or part[0] == "." for part in inside.parts[:-1])
                if path.suffix in CODE_ENDINGS and not skipped:
                    yield f"{self.label}/{inside.as_posix()}", path


def source_fingerprint(item: object, registered_by: str | None = None) -> str | None:
    """SHA-256 of the source that an object comes from; ``None`` if the package brings it along.

    Args:
        item: A class or a function.
        registered_by: Module of the plugin that registered it, if it was loaded as a plugin.

    Raises:
        UserError: If nothing of it lies in a file.
    """
    if registered_by is None and is_of_session(item):
        return _session_fingerprint(item)
    own, *bases = _modules_of(item)
    if registered_by is None and _is_own_name(own):
        return None
    units: dict[tuple[Path, ...], _Unit] = {}

    def add(module: str | None, installed_too: bool) -> None:
        unit = None
        if module and not _is_own_name(module):
            unit = _unit_of(module, installed_too)
        if unit is not None:
            units.setdefault(unit.places, unit)

    add(registered_by, installed_too=True)
    add(own, installed_too=True)
    if not units:
        raise UserError(
            f"{getattr(item, '__qualname__', item)!r} of module {own!r} lies in no file, so no "
            "run's identity could cover its code: write it into a Python file"
        )
    for module in bases:
        add(module, installed_too=False)
    return _digest(_with_imports(list(units.values())))


def _session_fingerprint(item: object) -> str:
    """SHA-256 of a definition without a file: its text, and what of the user's own it names."""
    source = session_source(item)
    units = [
        unit
        for module in sorted(source.modules)
        if not _is_own_name(module) and (unit := _unit_of(module, installed_too=False))
    ]
    content = repr([sorted(source.parts.items()), _digest(_with_imports(units))])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def is_local(path: Path) -> bool:
    """Whether a file is the user's own: not part of Python, of an installed library, or of this."""
    return not any(_is_installed(part) for part in path.parts) and not any(
        path.is_relative_to(folder) for folder in _library_folders()
    )


def _modules_of(item: object) -> list[str]:
    """The modules that an object's code lies in, its own first."""
    while isinstance(item, functools.partial):
        item = item.func
    if inspect.isroutine(item):
        inner = inspect.unwrap(item)
        found = [getattr(item, "__module__", None), getattr(inner, "__module__", None)]
    else:
        cls = item if isinstance(item, type) else type(item)
        found = [base.__module__ for base in cls.__mro__]
    return list(dict.fromkeys(name for name in found if name and name != "typing"))


def _is_own_name(module: str) -> bool:
    return module == "epi_bench" or module.startswith("epi_bench.")


def _is_installed(part: str) -> bool:
    """Whether a folder of that name holds installed libraries."""
    return part in ("site-packages", "dist-packages")


@lru_cache(maxsize=1)
def _library_folders() -> tuple[Path, ...]:
    package = importlib.import_module("epi_bench")
    own = [Path(str(package.__file__)).parent]
    for name in ("strategies", "tasks"):
        spec = importlib.util.find_spec(f"epi_bench.{name}")
        own += map(Path, (spec.submodule_search_locations or []) if spec else [])
    paths = sysconfig.get_paths()
    standard = [Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(path.resolve() for path in (*own, *standard))


def _unit_of(module: str, installed_too: bool) -> _Unit | None:
    """The file or the whole top-level package of a module; ``None`` if it is not to be hashed."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return None
    folders, file = _places_of(top)
    if not folders and module != top and file is None:
        folders, file = _places_of(module)
    places = folders or ((file,) if file else ())
    if not places or not all(path.exists() for path in places):
        return None
    if not installed_too and not all(is_local(path) for path in places):
        return None
    own_file = module.startswith("epi_bench_plugin_")
    return _Unit("" if own_file else top, tuple(path.resolve() for path in places))


def _places_of(module: str) -> tuple[tuple[Path, ...], Path | None]:
    """A package's folders, or a module's file."""
    present = sys.modules.get(module)
    if present is not None:
        folders = tuple(map(Path, getattr(present, "__path__", None) or ()))
        file = getattr(present, "__file__", None)
        return folders, Path(file) if isinstance(file, str) and file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return (), None
    if spec is None:
        return (), None
    folders = tuple(map(Path, spec.submodule_search_locations or ()))
    return folders, Path(spec.origin) if spec.origin and spec.has_location else None


def _with_imports(units: list[_Unit]) -> list[_Unit]:
    """The units and all local ones that they import."""
    found = {unit.places: unit for unit in units}
    waiting = list(units)
    while waiting:
        for _, path in waiting.pop().files():
            for name in sorted(_imported_names(path)):
                unit = None if _is_own_name(name) else _unit_of(name, installed_too=False)
                if unit is not None and unit.places not in found:
                    found[unit.places] = unit
                    waiting.append(unit)
    return list(found.values())


def _imported_names(path: Path) -> set[str]:
    """Top-level names of what a Python file imports, in functions too; its own package is not."""
    if path.suffix != ".py":
        return set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # never imported, then
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _digest(units: Iterable[_Unit]) -> str:
    files = sorted(
        (label, hashlib.sha256(path.read_bytes()).hexdigest())
        for unit in units
        for label, path in unit.files()
    )
    return hashlib.sha256(repr(files).encode()).hexdigest()
