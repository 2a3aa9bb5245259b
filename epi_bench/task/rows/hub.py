"""Data sets as the hub publishes them: in a folder of shards, or downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.task.rows.source import DataSource, Location

if TYPE_CHECKING:
    from datasets import Dataset


def has_shards(folder: Path) -> bool:
    """Whether a folder holds Parquet files, at any depth."""
    return folder.is_dir() and any(folder.rglob("*.parquet"))


def load_folder(source: DataSource, location: Location) -> Dataset:
    """The split of a local copy of a hub repository.

    The repository's README says which files belong to which configuration and split. A copy
    without it is read by its file names, below the configuration's folder if there is one.
    """
    from datasets import load_dataset

    folder = Path(location.place)
    try:
        if (folder / "README.md").is_file():
            splits = load_dataset(str(folder), source.config)
        else:
            splits = load_dataset("parquet", data_files=_shards_by_split(folder, source.config))
    except _load_errors() as error:
        raise UserError(
            f"{location.place} cannot be read as a copy of the hub data set {source.hub_id}: "
            f"{_reason(error)}"
        ) from error
    if location.split not in splits:
        raise UserError(
            f"{location.place} has no split {location.split!r}, only {', '.join(splits)}; "
            f"get it with {download_command(source, location.place)}"
        )
    return splits[location.split]


def _shards_by_split(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Parquet files by split: ``train-00000-of-00001.parquet`` or ``train/0000.parquet``."""
    if config is not None and (folder / config).is_dir():
        folder = folder / config
    shards: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        name = re.sub(r"-\d{5}-of-\d{5}(-\w+)?$", "", path.stem)
        split = path.parent.name if name.isdigit() else name
        shards.setdefault(split, []).append(str(path))
    return shards


def load_hub(source: DataSource, location: Location) -> Dataset:
    """A split from the hub, or from the copy that an earlier call left in the library's cache.

    Raises:
        UserError: If it can be had from neither.
    """
    from datasets import load_dataset

    try:
        return load_dataset(
            source.hub_id, source.config, split=location.split, revision=source.revision
        )
    except _load_errors() as error:
        raise UserError(
            f"data set {source.hub_id} (split {location.split}) cannot be loaded from the hub: "
            f"give data_dir a folder with local files, or go online ({_reason(error)})",
            setting="data_dir",
        ) from error


def _load_errors() -> tuple[type[Exception], ...]:
    """What ``load_dataset`` raises for missing, unreachable or broken data."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)


def _reason(error: Exception) -> str:
    """Type and first line of an error: what follows is the library's advice to programmers."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def download_command(source: DataSource, folder: Path | str) -> str:
    """The shell command that makes a local copy of a data set, for messages."""
    revision = "" if source.revision == "main" else f" --revision {source.revision}"
    return f"'hf download {source.hub_id} --repo-type dataset{revision} --local-dir {folder}'"
