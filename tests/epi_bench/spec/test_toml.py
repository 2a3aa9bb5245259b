"""The file of a run repeats the run."""

from __future__ import annotations

import tomllib

import pytest

from epi_bench.runs.identity import run_id
from epi_bench.spec.defaults import complete_spec, overlay_settings
from epi_bench.spec.toml import spec_to_toml


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"threads": None},
        {"training": {"epochs": 2}, "threads": 3},
        {"model": {"name": "models/mine"}},
        {"model": {"name": "a\x1b[31m\x9b \u202e\U000e0041 é 👨‍👩‍👧"}},
        {"data": {"train_examples": 7}, "evaluation": {"max_new_tokens": 5}},
    ],
)
def test_reading_gives_the_same_specification(values):
    """``threads`` unset on tiny was read as 1, which is another run."""
    spec = complete_spec(values)
    assert values.get("threads", 1) == spec.threads or spec.model.name != "tiny"
    read = complete_spec(tomllib.loads(spec_to_toml(spec)))
    assert read == spec
    assert run_id(read, {}) == run_id(spec, {})


def test_what_cannot_be_seen_is_written_as_an_escape():
    text = spec_to_toml(complete_spec({"model": {"name": "é\x1b\x9b\u202e\U000e0041"}}))
    assert r'name = "é\u001b\U0000009b\U0000202e\U000e0041"' in text


def test_a_file_without_the_marker_is_completed():
    assert complete_spec(tomllib.loads("[data]\nmax_length = 64")).threads == 1


def test_flags_override_a_complete_file():
    written = tomllib.loads(spec_to_toml(complete_spec({"threads": None})))
    spec = complete_spec(overlay_settings(written, {"training": {"epochs": 2}}))
    assert (spec.training.steps, spec.training.epochs, spec.threads) == (None, 2.0, None)


def test_further_tables_stand_beside_the_settings():
    text = spec_to_toml(complete_spec({}), {"locations": {"data_dir": "data"}})
    assert tomllib.loads(text)["locations"] == {"data_dir": "data"}
    assert text.startswith("# ")
