"""Where rows of published data sets come from: the hub, or local files in the published layout.

Three layouts hold the same rows and give the same examples:

- the hub, through ``datasets.load_dataset``; code of a data set is never run;
- local JSON files (one object a line, or one array) as their authors publish them;
- a local copy of a hub repository, as ``hf download`` makes it (Parquet shards).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from epi_bench.errors import UserError
from epi_bench.json_rows import read_json_rows
from epi_bench.row import Row
from epi_bench.task import DataSource, Split

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class Location:
    """Where a split's rows lie.

    Attributes:
        kind: A JSON file, a local copy of a hub repository, or the hub.
        place: Path or hub id.
        split: The split's name there; empty for a file.
    """

    kind: Literal["file", "folder", "hub"]
    place: str
    split: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.split})" if self.split else self.place


def locate(source: DataSource, split: Split, data_dir: Path | None) -> Location:
    """Find the rows of a split without reading them.

    Local JSON files come first, in the order in which the source names them, then a local copy of
    the hub repository. ``data_dir/gsm8k/train.jsonl`` may also be called
    ``data_dir/openai/gsm8k/train.jsonl``.

    Args:
        source: What to look for.
        split: Ours.
        data_dir: Folder of local files; ``None`` for the hub.

    Raises:
        UserError: If ``data_dir`` does not exist or has nothing for this split.
    """
    if data_dir is None:
        return Location("hub", source.hub_id, source.splits[split])
    data_dir = data_dir.expanduser()
    if not data_dir.is_dir():
        raise UserError(
            f"data folder {data_dir} does not exist: give the folder of the local files"
        )
    for name in source.files.get(split, ()):
        for path in _places(source, name, data_dir):
            if path.is_file():
                return Location("file", str(path))
    for folder in _folders(source):
        if _has_shards(data_dir / folder):
            return Location("folder", str(data_dir / folder), source.splits[split])
    raise _nothing_found(source, split, data_dir)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a split.

    Attributes:
        total: How many the split has.
        chosen: Those that were asked for, in the published order.
    """

    total: int
    chosen: Iterable[Row]


def read_rows(
    source: DataSource,
    location: Location,
    data_dir: Path | None = None,
    limit: int | None = None,
    read_file: Callable[[Path], Iterable[Row]] | None = None,
) -> Rows:
    """The rows at a location.

    Args:
        source: The data set; says configuration and revision.
        location: As :func:`locate` returned it.
        data_dir: Paths in messages are written relative to it.
        limit: Rows to choose of a longer split, spread evenly over it; ``None`` chooses all.
        read_file: Reads a local file; ``None`` reads JSON.

    Raises:
        UserError: If the rows are missing or broken; file and line are named.
    """
    if location.kind == "file":
        path = Path(location.place)
        rows = list(read_file(path) if read_file else read_json_rows(path, data_dir))
        return Rows(len(rows), [rows[index] for index in _spread(len(rows), limit)])
    load = _load_hub if location.kind == "hub" else _load_folder
    dataset = load(source, location)
    total = len(dataset)
    if total == 0:
        raise UserError(f"{location} has no rows")
    indices = _spread(total, limit)
    chosen = dataset if len(indices) == total else dataset.select(indices)
    return Rows(total, _dataset_rows(chosen, indices, location))


def _dataset_rows(dataset: Dataset, indices: Sequence[int], location: Location) -> Iterator[Row]:
    columns = dataset.column_names
    values = iter(dataset)
    for index in indices:
        origin = f"{location} row {index + 1}"
        try:
            fields = next(values)
        except (ValueError, OverflowError) as error:  # such as a duration of a million years
            raise UserError(f"{origin} holds a value that cannot be read: {error}") from error
        yield Row(fields, index, origin, columns)


def _spread(total: int, limit: int | None) -> Sequence[int]:
    if limit is None or total <= limit:
        return range(total)
    return [position * total // limit for position in range(limit)]


def _places(source: DataSource, name: str, data_dir: Path) -> list[Path]:
    """Where a file may lie: in the folder the source names, or in one named after the hub id."""
    file = Path(name)
    hub = Path(source.hub_id)
    folders = [file.parent, hub, Path(hub.name)]
    return [data_dir / folder / file.name for folder in folders]


def _folders(source: DataSource) -> list[Path]:
    """Where a copy of the hub repository may lie, relative to the data folder."""
    named = [Path(name).parent for names in source.files.values() for name in names]
    hub = Path(source.hub_id)
    return list(dict.fromkeys([*named, Path(hub.name), hub]))


def _has_shards(folder: Path) -> bool:
    return folder.is_dir() and any(folder.rglob("*.parquet"))


def _load_folder(source: DataSource, location: Location) -> Dataset:
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
            f"{_first_line(error)}"
        ) from error
    if location.split not in splits:
        raise UserError(
            f"{location.place} has no split {location.split!r}, only {', '.join(splits)}; "
            f"get it with {_download_command(source, location.place)}"
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


def _load_hub(source: DataSource, location: Location) -> Dataset:
    from datasets import load_dataset

    try:
        return load_dataset(
            source.hub_id, source.config, split=location.split, revision=source.revision
        )
    except _load_errors() as error:
        raise UserError(
            f"data set {source.hub_id} (split {location.split}) cannot be loaded from the hub: "
            f"give --data-dir a folder with local files, or go online ({_first_line(error)})"
        ) from error


def _load_errors() -> tuple[type[Exception], ...]:
    """What ``load_dataset`` raises for missing, unreachable or broken data."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _nothing_found(source: DataSource, split: Split, data_dir: Path) -> UserError:
    wanted = source.files.get(split, ())
    folder = _folders(source)[0]
    other = {
        name
        for names in source.files.values()
        for name in names
        if any(path.is_file() for path in _places(source, name, data_dir))
    }
    looked_for = [*wanted, f"{folder}/ with Parquet files"]
    found = f" (found only {', '.join(sorted(other))})" if other else ""
    return UserError(
        f"no rows for the {split} split of {source.hub_id} in {data_dir}{found}: looked for "
        f"{' or '.join(looked_for)}; get them with {_download_command(source, data_dir / folder)}, "
        "or leave --data-dir out to load them from the hub"
    )


def _download_command(source: DataSource, folder: Path | str) -> str:
    revision = "" if source.revision == "main" else f" --revision {source.revision}"
    return f"'hf download {source.hub_id} --repo-type dataset{revision} --local-dir {folder}'"
