"""Files: those that the package brings along, those that are written whole or not at all, and
where caches lie.
"""

from __future__ import annotations

import os
import secrets
from importlib.resources import files
from pathlib import Path

from epi_bench.errors import UserError


def shipped_file(name: str = "") -> Path:
    """A file or folder below ``epi_bench/data``; without a name, that folder."""
    return Path(str(files("epi_bench") / "data" / name))


CACHE_VARIABLE = "EPI_BENCH_CACHE"
"""Environment variable with the folder of all caches; one of :data:`NO_CACHE` turns them off."""

NO_CACHE = ("", "0", "none", "off")
"""Values of ``EPI_BENCH_CACHE`` that are not a folder; in capitals or not."""


def cache_folder(kind: str) -> Path | None:
    """Where one kind of cache lies; nothing is made.

    Args:
        kind: Name of the folder inside epi-bench's cache folder, such as ``"judge"``.

    Returns:
        The folder inside ``EPI_BENCH_CACHE``, or inside the folder where the system keeps caches
        if that is not set; ``None`` if caches are turned off.

    Raises:
        UserError: If ``EPI_BENCH_CACHE`` begins with the home folder of a user who does not exist.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given is None:
        from platformdirs import user_cache_path

        return user_cache_path("epi-bench", appauthor=False) / kind
    if given.strip().lower() in NO_CACHE:
        return None
    try:
        return Path(given.strip()).expanduser() / kind
    except RuntimeError as error:
        raise UserError(f"{CACHE_VARIABLE}={given}: {error}") from error


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
