"""One hash of the contents of a model's files; large files are read again only if they changed.

Hashing a model of several gigabytes takes longer than anything else that finds out whether a run
is finished. So the hash of large ones is kept under the state of all files: path, size, time of the
last change, and inode. A file that changed a moment ago is not trusted to show its next change.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from epi_bench.errors import UserError
from epi_bench.files import cache_folder, write_atomically

SMALLEST_KEPT = 64 * 2**20
"""Bytes of all files together; fewer are hashed each time, in a fraction of a second."""

SETTLED_SECONDS = 5.0
"""A file system's clock may not tell two changes apart that are closer together."""


def content_hash(folder: Path, paths: Sequence[Path]) -> str:
    """SHA-256 over names and contents of files.

    Args:
        folder: The names are relative to it.
        paths: Files in it, in a fixed order.

    Raises:
        OSError: If a file cannot be read.
    """
    states = _states(paths)
    caches = cache_folder("hashes")
    if caches is None or sum(state.size for state in states) < SMALLEST_KEPT:
        return _read(folder, paths)
    if max(state.changed for state in states) > (time.time() - SETTLED_SECONDS) * 1e9:
        return _read(folder, paths)
    named = [(path.relative_to(folder).as_posix(), str(path.resolve())) for path in paths]
    key = repr((named, states))
    kept = caches / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        found = kept.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        found = ""
    if re.fullmatch("[0-9a-f]{64}\n", found):
        return found.strip()
    made = _read(folder, paths)
    if _states(paths) == states:
        _keep(made, kept)
    return made


class _State(NamedTuple):
    """Of a file; times in nanoseconds."""

    size: int
    changed: int
    touched: int
    inode: int
    device: int


def _states(paths: Sequence[Path]) -> list[_State]:
    found = [path.stat() for path in paths]
    return [_State(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in found]


def _read(folder: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _keep(made: str, path: Path) -> None:
    try:
        write_atomically(path, made + "\n")
    except UserError:
        return  # a folder for caches that cannot be written costs time and no run
