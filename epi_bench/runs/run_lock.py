"""One run is made by one process at a time, whoever else wants the same run."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.files import sweep

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK, OWNER = ".lock", ".owner.json"

POLL_SECONDS = 0.5
"""How often a waiting process asks whether the run is free."""


class RunBusyError(UserError):
    """Another process is making the run.

    Attributes:
        owner: Which one, in words.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(
            f"run {folder.name} is being made by {owner}: wait for it, or stop it first"
        )
        self.owner = owner


@contextmanager
def own_run(folder: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Own a run while the block is running.

    The operating system gives the lock back when its owner ends, however it ends, so a lock is
    never stale; on a network folder that does not lock across machines, two of them may train the
    same run, and the later record replaces an equal one.

    Half-written files that a killed owner left in the folder are removed. A folder that did not
    exist and in which the block leaves nothing is removed too.

    Args:
        folder: Of the run; made if it is not there.
        on_wait: Called once, with the owner in words, if the run is another process's; it is waited
            for then. ``None`` does not wait.

    Yields:
        Whether it had to be waited for.

    Raises:
        RunBusyError: If another process owns it and is not waited for.
        UserError: If the folder cannot be written.
    """
    try:
        made = _make(folder)
        lock, waited = _acquire(folder, on_wait)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        _name_owner(folder)
        sweep(folder)
        yield waited
    finally:
        _leave(folder, made)
        lock.release()
        with suppress(OSError):  # it holds something, somebody else's lock perhaps
            for path in made:
                path.rmdir()


def _leave(folder: Path, made: list[Path]) -> None:
    """Remove the owner's traces; from a folder in which nothing was begun, the lock's file too."""
    with suppress(OSError):  # somebody has removed the folder
        (folder / OWNER).unlink(missing_ok=True)
        if made and all(path.name == LOCK for path in folder.iterdir()):
            # filelock looks whether the file that it locked is still the one of that name
            (folder / LOCK).unlink()


def _make(folder: Path) -> list[Path]:
    """Make a folder; it and its parents that were not there, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path, on_wait: Callable[[str], None] | None) -> tuple[BaseFileLock, bool]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    timeout = 0.0
    while True:
        try:
            lock.acquire(timeout=timeout, poll_interval=POLL_SECONDS)
            return lock, timeout < 0
        except FileNotFoundError:  # its last owner has begun nothing and removed the folder
            folder.mkdir(parents=True, exist_ok=True)
        except Timeout:
            owner = _owner(folder)
            if on_wait is None:
                raise RunBusyError(folder, owner) from None
            on_wait(owner)
            timeout = -1  # for ever


def _name_owner(folder: Path) -> None:
    """For the message alone; the lock does not depend on it."""
    content = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / OWNER).write_text(json.dumps(content), encoding="utf-8")


def _owner(folder: Path) -> str:
    try:
        content: Any = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
