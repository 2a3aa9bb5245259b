"""Records as files: written whole or not at all, checked and brought up to date when read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from epi_bench.errors import UserError
from epi_bench.files import write_atomically
from epi_bench.foreign_text import json_text
from epi_bench.results.record.consistency import check_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.track import SCHEMA_VERSION
from epi_bench.spec.explain import explain_validation

LARGEST_FILE = 64 * 2**20
"""Bytes of a record; those of the embedded suite have about 100,000."""

LONGEST_INTEGER = 18
"""Digits; no count of a run has more."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each old schema version the function that turns its content into the next version's."""


def comparable(record: RunRecord) -> dict[str, Any]:
    """The part of a record that two runs of one specification share, as JSON values.

    A judge's grades are left out: they are another model's, which may answer differently.
    """
    content = record.model_dump(mode="json", exclude={"cost", "environment", "judge"})
    for name in {name for row in record.judge.rows for name in row.tasks} if record.judge else ():
        content["secondary_scores"].get(name, {}).pop("judge", None)
    return content


def record_to_json(record: RunRecord) -> str:
    """The text of a record's file."""
    return json_text(record.model_dump(mode="json")) + "\n"


def save_record(record: RunRecord, path: Path) -> None:
    """Write a record; afterwards the file is complete, or as it was before.

    Raises:
        UserError: If the file cannot be written.
    """
    write_atomically(path, record_to_json(record))


def load_record(path: Path) -> RunRecord:
    """Read a record of this or an earlier schema version.

    Derived numbers are not believed because they are there: they are computed again.

    Raises:
        UserError: If the file cannot be read, is not a record, contradicts itself, or was written
            by a newer version; file and problem are named.
    """
    content = _read_content(path)
    try:
        record = RunRecord.model_validate(_migrate(content))
        check_record(record)
        return record
    except ValidationError as error:
        raise explain_validation(error, RunRecord, f"{path} is not a valid run record: ") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def record_schema() -> dict[str, Any]:
    """The JSON schema of a record's file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunRecord.model_json_schema(mode="validation"),
    }


def _migrate(content: Any) -> dict[str, Any]:
    """The content of a record of any known version, brought to the present one."""
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise UserError("not a run record: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"schema version {version} is newer than {SCHEMA_VERSION}, the newest that this "
            f"epi-bench reads: upgrade epi-bench"
        )
    for old in range(version, SCHEMA_VERSION):
        content = MIGRATIONS[old](content)
    return dict(content)


def _read_content(path: Path) -> Any:
    """The JSON value of a file, of bounded size and with nothing that JSON cannot hold."""
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            raise UserError(f"cannot read {path}: not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is not a run record: it has more than {LARGEST_FILE:,} bytes")
        content = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a character
        return content
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file: {error}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _bounded(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
