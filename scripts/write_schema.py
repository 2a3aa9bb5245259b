"""Write the JSON schema of the run record; run it after every change of the record's fields."""

from __future__ import annotations

import json
from pathlib import Path

from epi_bench.files import write_atomically
from epi_bench.results.record.record_file import record_schema

SCHEMA_FILE = (
    Path(__file__).resolve().parent.parent / "epi_bench/data/schema/run_record.schema.json"
)


def schema_text() -> str:
    """The contents of the schema file."""
    return json.dumps(record_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, schema_text())
    print(f"wrote {SCHEMA_FILE}")
