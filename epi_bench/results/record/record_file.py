"""Records as files: written whole or not at all, checked and brought up to date when read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from epi_bench.errors import UserError, validation_reason
from epi_bench.files import write_atomically
from epi_bench.foreign_text import json_text
from epi_bench.results.record.consistency import (
    DamagedRecordError,
    Disagreement,
    check_record,
    short,
)
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.strict_json import parse_json
from epi_bench.results.record.track import SCHEMA_VERSION
from epi_bench.spec.explain import explain_validation

LARGEST_FILE = 32 * 2**20
"""Bytes of a record; those of the embedded suite have about 100,000."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each old schema version the function that turns its content into the next version's."""


def comparable(record: RunRecord) -> dict[str, Any]:
    """The part of a record that two runs of one specification share, as JSON values.

    A judge's grades are left out: they are another model's, which may answer differently. So is
    where graded protection lay, which runs of before it was measured do not tell.
    """
    left_out = {"cost", "environment", "judge", "graded_protection"}
    content = record.model_dump(mode="json", exclude=left_out)
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
        DamagedRecordError: If the file is not a record, or contradicts itself.
        UserError: If it is not there, cannot be read, or was written by a newer version.

        Both name the file.
    """
    content = _read_content(path)
    try:
        record = RunRecord.model_validate(_migrate(content))
        check_record(record)
        return record
    except ValidationError as error:
        explained = explain_validation(error, RunRecord, "not a valid run record: ")
        wrong = [_wrong_field(problem) for problem in error.errors()]
        raise DamagedRecordError(
            str(explained), wrong, path=path, setting=explained.settings
        ) from error
    except DamagedRecordError as error:
        raise DamagedRecordError(error.problem, error.disagreements, path=path) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _wrong_field(problem: Mapping[str, Any]) -> Disagreement:
    """A field that is not as the schema says."""
    written = "missing" if problem["type"] == "missing" else short(problem["input"])
    return Disagreement(".".join(map(str, problem["loc"])), written, validation_reason(problem))


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
        raise DamagedRecordError("not a run record: it has no schema_version")
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
            raise DamagedRecordError("not a file", path=path)
        if path.stat().st_size > LARGEST_FILE:
            problem = f"not a run record: it has more than {LARGEST_FILE:,} bytes"
            raise DamagedRecordError(problem, path=path)
        content = parse_json(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a character
        return content
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"not a JSON file: {error}", path=path) from error
