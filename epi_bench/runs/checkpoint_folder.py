"""Checkpoints on disk: whole or not there, found damaged where they are, without pickle.

A checkpoint is a folder; a later one has a higher number (several may be of one step, while a
model is scored)::

    checkpoints/00000003/
        state.json            numbers, texts and lists
        model.safetensors     one file for each group of tensors
        manifest.json         size and SHA-256 of the others, written last

It is written under another name, flushed to the disk and renamed, so a reader sees all of it or
nothing. The one before is kept until then (and longer, if so asked).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import short_repr

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Rises whenever what a checkpoint holds changes its meaning; others are not read."""

MANIFEST, STATE = "manifest.json", "state.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be written, or is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        step: Optimizer steps that have been made.
        state: JSON values: counters, random states, measurements.
        tensors: Groups of tensors by name, such as ``model`` and ``optimizer``. Tensors that share
            memory are stored twice: who loads them restores the ties.
    """

    step: int
    state: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: Made when the first checkpoint is saved.
        kept: Checkpoints to keep beside the newest, at least 0. While one is written, the newest
            before it stays in any case.

    Attributes:
        problems: One line for each checkpoint that was found damaged.

    Example:
        .. code-block:: python

            checkpoints = CheckpointFolder(Path("runs/0123456789ab/checkpoints"))
            checkpoints.save(Checkpoint(120, {"losses": [2.5, 2.25]}, {"model": weights}))
            checkpoints.load_last().step  # 120
    """

    def __init__(self, folder: Path, kept: int = 0) -> None:
        self.folder = folder
        self.kept = kept
        self.problems: list[str] = []

    def save(self, checkpoint: Checkpoint, like: Path | None = None) -> Path:
        """Write a checkpoint, then remove those that are no longer kept.

        Args:
            checkpoint: What is saved.
            like: A checkpoint of this folder whose groups of tensors are taken over, but for those
                that ``checkpoint`` has itself. It costs no copy where the file system has links.

        Returns:
            Its folder.

        Raises:
            CheckpointError: If it cannot be written; those before it stay as they were.
        """
        present = self._numbers()
        final = self.folder / f"{int(present[-1]) + 1 if present else 1:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.mkdir(parents=True)
            _write_parts(temporary, checkpoint, like)
            os.rename(temporary, final)  # noqa: PTH104  (atomic by its contract)
            _flush(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {error.strerror or error}"
            ) from error
        for old in self._numbers()[: -1 - self.kept]:
            shutil.rmtree(self.folder / old, ignore_errors=True)
        return final

    def load_last(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; ``None`` if there is none.

        Damaged ones are passed over and named in :attr:`problems`.
        """
        return next((checkpoint for _, checkpoint in self.load_all()), None)

    def load_all(self) -> Iterator[tuple[Path, Checkpoint]]:
        """Every checkpoint that is whole, the newest first, each read when it is asked for."""
        for name in reversed(self._numbers()):
            try:
                found = _read_parts(self.folder / name)
            except (CheckpointError, OSError) as error:
                self.problems.append(f"checkpoint {self.folder / name} is not used: {error}")
                continue
            yield self.folder / name, found

    def newest_time(self) -> float | None:
        """When the newest checkpoint was written, in seconds since 1970; ``None`` without one."""
        for name in reversed(self._numbers()):
            with suppress(OSError):  # a damaged one has no manifest
                return (self.folder / name / MANIFEST).stat().st_mtime
        return None

    def sweep(self) -> None:
        """Remove what writers left behind that were killed. Call it as the run's only writer."""
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def bytes_on_disk(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _numbers(self) -> list[str]:
        """Names of the checkpoints, the newest last."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted((name for name in names if name.isdecimal()), key=int)


def _write_parts(folder: Path, checkpoint: Checkpoint, like: Path | None) -> None:
    from safetensors.torch import save_file

    (folder / STATE).write_text(json.dumps(dict(checkpoint.state)), encoding="ascii")
    _flush(folder / STATE)
    described = {STATE: _describe(folder / STATE)}
    for group, tensors in checkpoint.tensors.items():
        path = folder / f"{group}.safetensors"
        save_file(_own(tensors), path)
        shutil.copymode(folder / STATE, path)  # else nobody but the owner could read it
        _flush(path)
        described[path.name] = _describe(path)
    if like is not None:
        before = _json_object(MANIFEST, (like / MANIFEST).read_bytes())
        for name, found in before["files"].items():
            if name not in described:
                _link(like / name, folder / name)
                described[name] = found
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": described}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="ascii")
    _flush(folder / MANIFEST)
    _flush(folder)


def _link(source: Path, target: Path) -> None:
    """A second name of the file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        _flush(target)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, as safetensors wants them: in a row, and each with its own memory."""
    found, taken = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() > plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        found[name] = plain
    return found


def _read_parts(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = _json_object(MANIFEST, (folder / MANIFEST).read_bytes())
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"its format is {manifest.get('format')!r}, not {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{MANIFEST} does not list its files")
    step = manifest.get("step")
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{MANIFEST} gives {short_repr(step)} as its step")
    paths = {name: _checked(folder, name, described) for name, described in files.items()}
    state = _json_object(STATE, paths.pop(STATE).read_bytes())
    try:
        tensors = {path.stem: load_file(path) for path in paths.values()}
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"its tensors cannot be read ({error})") from error
    return Checkpoint(step, state, tensors)


def _checked(folder: Path, name: str, described: object) -> Path:
    if Path(name).name != name or "\0" in name:
        raise CheckpointError(f"{MANIFEST} names a file elsewhere: {name!r}")
    try:
        found = _describe(folder / name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{name} is missing") from error
    if found != described:
        raise CheckpointError(f"{name} is not as it was written")
    return folder / name


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": found}


def _json_object(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    return value


def _flush(path: Path) -> None:
    """Have a file, or a folder's list of files, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
