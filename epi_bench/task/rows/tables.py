"""Rows of a user's own file: JSON, JSON lines, CSV, TSV or Parquet, by the file's ending."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.task.rows.json_rows import read_json_rows
from epi_bench.task.rows.row import Row
from epi_bench.task.rows.text_files import read_text, shown_path, undecoded_byte

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

LONGEST_FIELD = 100_000_000
"""Characters of one CSV field."""


def read_table(
    path: Path, relative_to: Path | None = None, quoting: bool | None = None
) -> list[Row]:
    """All rows of a file.

    Args:
        path: ``.json`` and ``.jsonl`` (objects one after the other, or an array), ``.csv`` and
            ``.tsv`` (UTF-8, column names in the first line, texts only), all of them also with
            ``.gz`` behind it, or ``.parquet``.
        relative_to: Folder that messages leave out of the path.
        quoting: Whether a double quote at the beginning of a cell opens a quoted cell, which may
            hold separators and line breaks. The default is yes in ``.csv``, and no in ``.tsv``,
            where quotes are characters like others.

    Raises:
        UserError: If the file is missing, is of another kind, has no rows, or is broken; the line
            is named where the kind of file has lines.
    """
    shown = shown_path(path, relative_to)
    ending = _ending(path)
    if path.is_dir():
        raise UserError(f"{shown} is a folder: name one file in it ({', '.join(ENDINGS)})")
    if ending not in ENDINGS:
        raise UserError(f"{shown}: files of rows end in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise UserError(f"file {shown} does not exist: paths are relative to the task file")
    if quoting is not None and ending not in _DELIMITED:
        raise UserError(f"{shown}: quoting is a setting of {' and '.join(_DELIMITED)} files")
    if ending in _DELIMITED:
        quoted = ending == ".csv" if quoting is None else quoting
        rows = _read_delimited(path, shown, _Layout(_DELIMITED[ending], quoted))
    else:
        rows = list(_READERS[ending](path, shown, relative_to))
    if not rows:
        raise UserError(f"{shown} has no rows")
    return rows


def _ending(path: Path) -> str:
    """The file's kind: its ending in small letters, without that of a compressed file."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"] and suffixes[:1] != [".parquet"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_json(path: Path, _shown: str, relative_to: Path | None) -> Iterator[Row]:
    return read_json_rows(path, relative_to)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the cells of a line are told apart."""

    separator: str
    quoted: bool

    @property
    def remedy(self) -> str:
        """What to do about a cell that holds the separator."""
        if self.quoted:
            return "put fields that hold the separator between double quotes"
        return "a field cannot hold the separator, unless quoting = true in [source]"


def _read_delimited(path: Path, shown: str, layout: _Layout) -> list[Row]:
    """Rows with the line on which each begins; a quoted field may hold line breaks."""
    file = read_text(path, shown)
    reader = csv.reader(
        io.StringIO(file.content, newline=""),
        delimiter=layout.separator,
        quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    rows: list[Row] = []
    names: list[str] | None = None
    # The module's only way to allow long fields is a setting of the process; it is put back.
    usual_limit = csv.field_size_limit(LONGEST_FIELD)
    line = 1
    try:
        for fields in reader:
            origin = f"{shown} line {line}"
            if file.broken and (defect := undecoded_byte("".join(fields))):
                raise UserError(f"{origin}: {defect}: save the file as UTF-8")
            if names is None:
                names = _column_names(fields, origin)
            elif fields:  # a blank line has none
                rows.append(_delimited_row(names, fields, layout, len(rows), origin))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{shown} line {line}: no row of the table: {error}") from error
    finally:
        csv.field_size_limit(usual_limit)
    return rows


def _column_names(fields: list[str], origin: str) -> list[str]:
    names = [field.strip() for field in fields]
    if not names:
        raise UserError(f"{origin}: the line is empty: the first line holds the column names")
    if not all(names):
        raise UserError(f"{origin}: a column has no name: the first line holds the names")
    _refuse_twice(names, origin)
    return names


def _refuse_twice(names: Sequence[str], origin: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{origin}: two columns are named {twice[0]!r}")


def _delimited_row(
    names: list[str], fields: list[str], layout: _Layout, index: int, origin: str
) -> Row:
    if len(fields) != len(names):
        raise UserError(f"{origin}: {len(fields)} fields for {len(names)} columns: {layout.remedy}")
    return Row(dict(zip(names, fields, strict=True)), index, origin)


def _read_parquet(path: Path, shown: str, _relative_to: Path | None) -> Iterator[Row]:
    table = _parquet_table(path, shown)
    names = table.column_names
    _refuse_twice(names, shown)
    columns = [_column_values(table.column(name), name, shown) for name in names]
    for index, values in enumerate(zip(*columns, strict=True)):
        fields = dict(zip(names, values, strict=True))
        yield Row(fields, index, f"{shown} row {index + 1}", names)


def _parquet_table(path: Path, shown: str) -> Table:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read()
    except (ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{shown} is no Parquet file: {reason}") from error


def _column_values(column: ChunkedArray, name: str, shown: str) -> list[Any]:
    """A column's values; those that Python has no value for are refused by their row."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        values = []
        for index, value in enumerate(column):
            try:
                values.append(value.as_py())
            except (ValueError, OverflowError) as error:
                raise UserError(
                    f"{shown} row {index + 1}: the value of column {name!r} ({column.type}) "
                    f"cannot be read: {error}"
                ) from error
    return values


_DELIMITED = {".csv": ",", ".tsv": "\t"}
_READERS: dict[str, Callable[[Path, str, Path | None], Iterable[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Of the files that can be read."""
