"""Records that earlier versions wrote load, with the numbers that they had then.

Each sample is a published record as it was committed. A new schema version adds one of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish, rank_track
from epi_bench.results.record.consistency import DamagedRecordError
from epi_bench.results.record.record_file import comparable, load_record, save_record
from epi_bench.results.record.track import SCHEMA_VERSION

SAMPLES = Path(__file__).parent / "samples"

KNOWN = {
    "schema_1_first": ("000da28ebbcb", 1, 50.6),
    "schema_1_protocol_1": ("000da28ebbcb", 1, 50.3),
    "schema_1_protocol_2": ("0465e0eb42d4", 2, 57.4),
}
"""Sample -> its run id, training protocol and average accuracy."""


def test_there_is_a_sample_of_every_version():
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(KNOWN)
    versions = {json.loads(path.read_text())["schema_version"] for path in SAMPLES.glob("*.json")}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize(("name", "expected"), KNOWN.items(), ids=KNOWN)
def test_an_older_record_loads_with_its_numbers(name, expected, tmp_path):
    record = load_record(SAMPLES / f"{name}.json")
    accuracy = record.metrics["average_accuracy"]
    assert (record.run_id, record.track.facts.training_protocol, accuracy) == expected
    save_record(record, tmp_path / "again.json")
    assert comparable(load_record(tmp_path / "again.json")) == comparable(record)
    [entry] = rank_track([record]).entries
    assert entry.values["average_accuracy"].mean == accuracy
    assert publish(record, tmp_path).parent.name == record.track.name


def test_a_newer_record_is_refused_with_its_version_and_the_remedy(tmp_path):
    content = json.loads((SAMPLES / "schema_1_protocol_2.json").read_text())
    path = tmp_path / "newer.json"
    path.write_text(json.dumps({**content, "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match=r"version 2 is newer than 1.*upgrade epi-bench") as caught:
        load_record(path)
    assert not isinstance(caught.value, DamagedRecordError)  # nothing may take its place
