"""What a file says beside the specification, and how many runs are asked for at once."""

from __future__ import annotations

import pytest

import epi_bench
from epi_bench.api.selection import Selection
from epi_bench.errors import UserError


def select(path, seeds=1, **given):
    return Selection(given, None, [], None, [], seeds, path, [], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategy = 1", "strategy=1: input should be a valid dictionary"),
        ("strategy = false", "strategy=False: input should be"),
        ("[strategy]\nname = nan", "strategy.name=nan: input should be a valid string"),
        ("[strategy]\nname = ['epi']", "strategy.name=['epi']: input should be a valid string"),
        ("[strategy]\noptions = 1.5", "strategy.options=1.5: input should be a valid dictionary"),
        ("[strategy]\nnam = 'epi'", "unknown setting 'strategy.nam': did you mean"),
        ("locations = inf", "locations=inf: input should be a valid dictionary"),
        ("[locations]\nplugins = false", "locations.plugins=False: input should be a valid tuple"),
        ("[locations]\nplugins = [1]", "locations.plugins.0=1: input should be a valid string"),
        ("[locations]\ntask_files = {a = 1}", "locations.task_files: input should be"),
        ("[locations]\ntask_files = [0]", "locations.task_files.0=0: input should be"),
        ("[locations]\ndata_dir = []", "locations.data_dir=[]: input should be a valid string"),
        ("[locations]\ndata = 'x'", "unknown setting 'locations.data': did you mean"),
        ("stream = 1", "stream=1: input should be"),
    ],
)  # fmt: skip
def test_a_wrong_type_beside_the_specification_is_named(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        select(path).specs()
    assert message in str(refused.value)


def test_options_of_the_stream_over_a_file_without_a_stream_are_an_error_too(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("stream = 1")
    selection = Selection({}, None, [], None, ["mixing=concat"], 1, path, [], None)
    with pytest.raises(UserError, match="unknown option of stream 'sequential' 'mixing'"):
        selection.specs()


@pytest.mark.parametrize(
    "seeds", [0, -1, 10_001, 10**18, 10**5000], ids=lambda n: str(n.bit_length())
)
def test_the_number_of_seeds_is_bounded(seeds):
    with pytest.raises(UserError, match="must lie between 1 and 10,000"):
        select(None, seeds).specs()
    with pytest.raises(UserError, match="must lie between 1 and 10,000"):
        epi_bench.compare(["full_sft"], seeds=seeds)


def test_no_seed_is_larger_than_a_file_can_hold():
    largest = 2**63 - 1
    assert [spec.seed for spec in select(None, seed=largest).specs()] == [largest]
    with pytest.raises(UserError, match=f"no seed is larger than {largest}"):
        select(None, 2, seed=largest).specs()
    with pytest.raises(UserError, match="must be a whole number from 0 to"):
        epi_bench.compare(["full_sft"], seeds=[2**63])
