"""Files: those that the package brings along, those that are written whole or not at all, and
where caches lie.
"""

from __future__ import annotations

import os
import secrets
import shutil
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that no reader ever sees a part of it, whatever interrupts the writing.

    What was there before stays until then. A link is followed: the file that it leads to is
    replaced, and the link stays.

    Args:
        path: The file; its folder is made if it is not there.
        content: The file's bytes, or its text, which is written in UTF-8.

    Raises:
        UserError: If the folder or the file cannot be written.
    """
    final = Path(os.path.realpath(path))
    temporary = temporary_beside(final)
    octets = content.encode() if isinstance(content, str) else content
    try:
        if final.exists() and not final.is_file() and not final.is_dir():
            final.write_bytes(octets)  # /dev/null stays what it is
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)  # noqa: PTH105  (the atomic one of the two, by its contract)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


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


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Write a folder so that it is there whole or not at all; an old one stays until then.

    Args:
        path: The folder. It belongs to the program alone: an old one is replaced as a whole.

    Returns:
        An empty folder to write into. It gets its name at the end, if nothing was raised.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    temporary = temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _flush_all(temporary)
        old = temporary_beside(path)
        with suppress(FileNotFoundError):
            os.rename(path, old)  # noqa: PTH104  (atomic by its contract, as the next)
        os.rename(temporary, path)  # noqa: PTH104
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def written_into(folder: Path) -> Iterator[Path]:
    """Write files into a folder that may hold others, which stay: all of them or none.

    Args:
        folder: Made if it is not there.

    Returns:
        An empty folder to write into. Its files take their places at the end, if nothing was
        raised; each replaces one of its name.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder / "epi-bench-files")  # inside: on the same disk
    try:
        temporary.mkdir()
        yield temporary
        _flush_all(temporary)
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)  # noqa: PTH105
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """A name for what becomes ``path`` once it is whole, in the same folder."""
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")


LEFT_AFTER_SECONDS = 600.0
"""A temporary file that is older than this belongs to a process that was killed."""


LEFT_IN_FOLDER = ".epi-bench-files.*.tmp"
"""Names of what :func:`written_into` leaves behind if it is killed: the folder may hold others'."""


def sweep(folder: Path, older_than: float = LEFT_AFTER_SECONDS, *, pattern: str = ".*.tmp") -> None:
    """Remove what writers left behind in a folder that were killed.

    What cannot be removed stays.

    Args:
        folder: Need not be there.
        older_than: Seconds since the last change; what is younger may be another writer's.
        pattern: Of the names; a narrower one for a folder that does not belong to the program.
    """
    before = time.time() - older_than
    with suppress(OSError):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if path.stat().st_mtime > before:
                    continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                _remove(path)


def set_aside(path: Path) -> Path | None:
    """Give a damaged file another name, so that a new one can take its place.

    Returns:
        Its new name, ``record.damaged.json`` for ``record.json``; one that was set aside before is
        replaced. ``None`` if it cannot be renamed.
    """
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    try:
        os.replace(path, aside)  # noqa: PTH105
    except OSError:
        return None
    return aside


def bytes_in(folder: Path) -> int:
    """Size of all files in a folder and below it; 0 if it is not there."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _flush_all(folder: Path) -> None:
    """Have everything in a folder on the disk, before it gets the name that says it is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file that may not be there, also where the file system refuses to work at all."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
