"""Rows of a user's own file: JSON, JSON lines, CSV, TSV or Parquet, by the file's ending."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.sources import Row, read_json_rows

LONGEST_FIELD = 100_000_000
"""Characters of one CSV field."""


def read_table(path: Path, relative_to: Path | None = None) -> list[Row]:
    """All rows of a file.

    Args:
        path: ``.json`` (one array, or an object a line), ``.jsonl``, ``.csv`` and ``.tsv`` (UTF-8,
            column names in the first line, texts only) or ``.parquet``.
        relative_to: Folder that messages leave out of the path.

    Raises:
        UserError: If the file is missing, is of another kind, has no rows, or is broken; the line
            is named where the kind of file has lines.
    """
    reader = _READERS.get(path.suffix.lower())
    shown = path
    if relative_to is not None and path.is_relative_to(relative_to):
        shown = path.relative_to(relative_to)
    if reader is None:
        raise UserError(f"{shown}: files of rows end in {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"file {shown} does not exist: paths are relative to the task file")
    try:
        rows = list(reader(path, str(shown), relative_to))
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror or error}") from error
    if not rows:
        raise UserError(f"{shown} has no rows")
    return rows


def _read_json(path: Path, _shown: str, relative_to: Path | None) -> Iterator[Row]:
    return read_json_rows(path, relative_to)


def _read_csv(path: Path, shown: str, _relative_to: Path | None) -> list[Row]:
    return _read_delimited(path, shown, ",")


def _read_tsv(path: Path, shown: str, _relative_to: Path | None) -> list[Row]:
    return _read_delimited(path, shown, "\t")


def _read_delimited(path: Path, shown: str, delimiter: str) -> list[Row]:
    """Rows with the line on which each begins; a quoted field may hold line breaks."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown} line {line}: not UTF-8 text: {error.reason}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    names: list[str] | None = None
    # The module's only way to allow long fields is a setting of the process; it is put back.
    usual_limit = csv.field_size_limit(LONGEST_FIELD)
    line = 1
    try:
        for fields in reader:
            if names is None:
                names = _column_names(fields, shown)
            elif fields:  # a blank line has none
                rows.append(_delimited_row(names, fields, len(rows), f"{shown} line {line}"))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{shown} line {line}: no row of the table: {error}") from error
    finally:
        csv.field_size_limit(usual_limit)
    return rows


def _column_names(fields: list[str], shown: str) -> list[str]:
    names = [field.strip() for field in fields]
    if not all(names):
        raise UserError(f"{shown} line 1: a column has no name: the first line holds the names")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{shown} line 1: two columns are named {twice[0]!r}")
    return names


def _delimited_row(names: list[str], fields: list[str], index: int, origin: str) -> Row:
    if len(fields) != len(names):
        raise UserError(
            f"{origin}: {len(fields)} fields for {len(names)} columns: "
            "put fields that hold the separator between double quotes"
        )
    return Row(dict(zip(names, fields, strict=True)), index, origin)


def _read_parquet(path: Path, shown: str, _relative_to: Path | None) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{shown} is no Parquet file: {reason}") from error
    for index, fields in enumerate(table.to_pylist()):
        yield Row(fields, index, f"{shown} row {index}")


_READERS: dict[str, Callable[[Path, str, Path | None], Iterator[Row] | list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
