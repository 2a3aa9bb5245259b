"""Where rows of published data sets come from: the hub, or local files in the published layout.

Three layouts hold the same rows and give the same examples:

- the hub, through ``datasets.load_dataset``; code of a data set is never run;
- local JSON files (one object a line, or one array) as their authors publish them;
- a local copy of a hub repository, as ``hf download`` makes it (Parquet shards).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.task.rows.hub import (
    download_command,
    has_shards,
    load_folder,
    load_hub,
)
from epi_bench.task.rows.json_rows import read_json_rows
from epi_bench.task.rows.row import Row
from epi_bench.task.rows.source import DataSource, Location, Split

if TYPE_CHECKING:
    from datasets import Dataset


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
        if has_shards(data_dir / folder):
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
    load = load_hub if location.kind == "hub" else load_folder
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
        f"{' or '.join(looked_for)}; get them with {download_command(source, data_dir / folder)}, "
        "or leave data_dir out to load them from the hub",
        setting="data_dir",
    )
