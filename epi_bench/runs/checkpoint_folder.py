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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        >>> checkpoints = CheckpointFolder(Path("runs/0123456789ab/checkpoints"))
        >>> checkpoints.save(Checkpoint(120, {"losses": [2.5, 2.25]}, {"model": weights}))
        >>> checkpoints.load_last().step
        120
    """

    def __init__(self, folder: Path, kept: int = 0) -> None:
        self.folder = folder
        self.kept = kept
        self.problems: list[str] = []

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove those that are no longer kept.

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
            _write_parts(temporary, checkpoint)
            os.rename(temporary, final)  # noqa: PTH104  (atomic by its contract)
            _flush_folder(self.folder)
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
        for name in reversed(self._numbers()):
            try:
                return _read_parts(self.folder / name)
            except (CheckpointError, OSError) as error:
                self.problems.append(f"checkpoint {self.folder / name} is not used: {error}")
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


def _write_parts(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save

    parts = {STATE: json.dumps(dict(checkpoint.state), ensure_ascii=False).encode()}
    for group, tensors in checkpoint.tensors.items():
        own = {name: _own(tensor) for name, tensor in tensors.items()}
        parts[f"{group}.safetensors"] = save(own)
    described = {name: _describe(content) for name, content in parts.items()}
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": described}
    for name, content in {**parts, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
        with (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _flush_folder(folder)


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own, on the CPU, as safetensors wants it."""
    return tensor.detach().cpu().contiguous().clone()


def _read_parts(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load

    manifest = _json_object(folder / MANIFEST, (folder / MANIFEST).read_bytes())
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"its format is {manifest.get('format')!r}, not {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{MANIFEST} does not list its files")
    contents = {name: _checked(folder, name, described) for name, described in files.items()}
    state = _json_object(folder / STATE, contents.pop(STATE))
    try:
        tensors = {Path(name).stem: load(content) for name, content in contents.items()}
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"its tensors cannot be read ({error})") from error
    return Checkpoint(int(manifest["step"]), state, tensors)


def _checked(folder: Path, name: str, described: object) -> bytes:
    if Path(name).name != name:
        raise CheckpointError(f"{MANIFEST} names a file elsewhere: {name!r}")
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{name} is missing") from error
    if _describe(content) != described:
        raise CheckpointError(f"{name} is not as it was written")
    return content


def _describe(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _json_object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is not a JSON object")
    return value


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def random_state_as_json(state: Sequence[Any]) -> list[Any]:
    """``random.Random.getstate()`` as JSON values; :func:`random_state_from_json` reverses it."""
    version, internal, gauss = state
    return [version, list(internal), gauss]


def random_state_from_json(state: Sequence[Any]) -> tuple[Any, ...]:
    """What ``random.Random.setstate`` takes."""
    version, internal, gauss = state
    return (version, tuple(internal), gauss)
