"""The files that a strategy of one's own begins with."""

from __future__ import annotations

import keyword
from enum import StrEnum
from pathlib import Path
from string import Template

from epi_bench.errors import UserError
from epi_bench.files import shipped_file, write_atomically
from epi_bench.strategy.facts import FAMILIES


class Kind(StrEnum):
    """What a new strategy begins as."""

    PLAIN = "plain"
    MASK = "mask"
    PENALTY = "penalty"


def write_scaffold(name: str, kind: Kind, folder: Path) -> tuple[Path, Path]:
    """Write a strategy that runs as it is, and a test of it, to be changed.

    Args:
        name: What it will be registered as.
        kind: What it begins as.
        folder: Where the files ``NAME.py`` and ``test_NAME.py`` go; made if it is missing.

    Returns:
        Both files.

    Raises:
        UserError: If the name cannot be one of a new strategy or of a file, or a file of that name
            is there; nothing is written then.
    """
    _check_name(name)
    files = (folder / f"{name}.py", folder / f"test_{name}.py")
    for path in files:
        if path.exists():
            raise UserError(f"{path} is there already: choose another name or another folder")
    words = {"name": name, "cls": "".join(word.capitalize() for word in name.split("_"))}
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in zip(files, (kind.value, f"test_{kind.value}"), strict=True):
        text = shipped_file(f"strategy_templates/{template}.py.txt").read_text(encoding="utf-8")
        write_atomically(path, Template(text).substitute(words))
    return files


def _check_name(name: str) -> None:
    from epi_bench.strategy.strategy import STRATEGIES

    usable = name.isidentifier() and name.isascii() and not name.startswith("_")
    if not usable or keyword.iskeyword(name) or not name.strip("_0123456789"):
        raise UserError(
            f"strategy name {name!r} is not usable: use letters, digits and underscores, "
            "beginning with a letter, such as half_step"
        )
    if name in STRATEGIES.names():
        raise UserError(f"there is a strategy {name!r} already: choose another name")
    if name in FAMILIES or name == "all":
        raise UserError(f"{name!r} means several strategies on the command line: choose another")
