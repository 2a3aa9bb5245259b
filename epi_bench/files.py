"""Files: those that the package brings along, those that are written whole or not at all, and
where caches lie.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


LEFT_AFTER_SECONDS = 600.0
"""A temporary file that is older than this belongs to a process that was killed."""


def remove_left_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder, not those of living ones.

    What cannot be removed stays; a folder that does not exist has none.

    Args:
        folder: Of files that :func:`write_atomically` writes.
    """
    with suppress(OSError):
        for path in folder.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFT_AFTER_SECONDS:
                    path.unlink()


@contextmanager
def one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Work alone on the files of a folder; other processes that ask for the same wait.

    The operating system gives the lock back when its owner ends, however it ends.

    Args:
        folder: Must exist.

    Raises:
        UserError: If the folder cannot be written.
    """
    from filelock import FileLock

    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        _remove(path)  # waiting ones notice that theirs is no longer the file of that name
        lock.release()


def _remove(path: Path) -> None:
    """Remove a file that may not be there, also where the file system refuses to work at all."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
