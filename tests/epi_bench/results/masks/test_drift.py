"""Drift of the masks of several runs."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish
from epi_bench.results.masks.drift import find_records, mask_drift
from epi_bench.results.masks.trace import trace_mask
from epi_bench.results.record.record_file import save_record


def test_overlaps_are_sorted_by_what_was_compared(masked_run):
    # Experience a ends at step 20 with the first mask; b brings two refreshes, steps 30 and 35.
    found = {drift.between: drift.values for drift in mask_drift([trace_mask(masked_run)] * 2)}
    assert found == {
        "two random masks": (1 / 3,) * 2,
        "with the previous mask, first refresh in a later experience": (0.8,) * 2,
        "with the previous mask, other refreshes": (0.6,) * 2,
        "last mask with the first": (0.5,) * 2,
        "masks at the ends of neighbouring experiences": (0.4,) * 2,
    }


def test_the_mean_is_over_all_runs(masked_run):
    last = masked_run.mask_statistics[-1]
    moved = last.model_copy(update={"values": {**last.values, "jaccard_first": 0.25}})
    other = masked_run.model_copy(
        update={"mask_statistics": (*masked_run.mask_statistics[:-1], moved)}
    )
    drifts = mask_drift([trace_mask(masked_run), trace_mask(other)])
    (drift,) = (drift for drift in drifts if drift.between == "last mask with the first")
    assert (drift.mean, drift.values) == (0.375, (0.5, 0.25))


def test_records_are_found_in_files_runs_and_folders(make_run, tmp_path):
    first, second = make_run(seed=0), make_run(seed=1)
    track = publish(first, tmp_path / "board").parent
    run = tmp_path / "runs" / second.run_id
    run.mkdir(parents=True)
    save_record(second, run / "record.json")
    assert find_records([track]) == [first]
    assert find_records([run.parent]) == [second]
    assert find_records([run, run / "record.json"]) == [second]
    assert find_records([track, run, track]) == [first, second]
    with pytest.raises(UserError, match="no record in"):
        find_records([tmp_path / "board"])
    with pytest.raises(UserError, match="no record at"):
        find_records([tmp_path / "nothing.json"])
