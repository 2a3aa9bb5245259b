"""Files: those that the package brings along, and those that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from importlib.resources import files
from pathlib import Path

from epi_bench.errors import UserError


def shipped_file(name: str = "") -> Path:
    """A file or folder below ``epi_bench/data``; without a name, that folder."""
    return Path(str(files("epi_bench") / "data" / name))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that no reader ever sees a part of it, whatever interrupts the writing.

    Raises:
        UserError: If the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (the atomic one of the two, by its contract)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Remove a file that may not be there, also where the file system refuses to work at all."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
