"""Reading and drawing how a mask moved."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.masks.figure import draw_mask
from epi_bench.results.masks.trace import find_record, trace_mask


def test_statistics_are_sorted_by_what_they_are_about(masked_run):
    trace = trace_mask(masked_run)
    assert trace.steps == (20, 30, 35)
    assert trace.drift["jaccard_previous"] == (None, 0.8, 0.6)
    assert trace.refreshes == (1, 2, 3)
    assert trace.protected == {"mlp": (0.25, 0.75, 0.75)}
    assert list(trace.layers) == ["layer_2", "layer_10"]
    assert trace.layers["layer_10"] == (0, 0.5, 0)
    assert trace.boundaries == (("a", 20), ("b", 35))
    assert trace.overlap.experiences == ("a", "b")
    assert trace.overlap.jaccard == ((1, 0.4), (0.4, 1))


def test_a_record_without_the_overlap_of_tasks_is_shown_all_the_same(masked_run):
    points = masked_run.mask_statistics
    older = masked_run.model_copy(
        update={"mask_statistics": (*points[:3], points[1].model_copy(update={"step": 35}))}
    )
    assert trace_mask(older).overlap.experiences == ()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_drawn(masked_run, tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"mask.{ending}"
    draw_mask(masked_run, path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert path.read_bytes().startswith(begins[ending])


def test_what_cannot_be_shown_is_said(masked_run, make_run, tmp_path):
    with pytest.raises(UserError, match="does not tell what it protected"):
        trace_mask(make_run())
    with pytest.raises(UserError, match=r"must end in \.png"):
        draw_mask(masked_run, tmp_path / "mask.jpeg")
    with pytest.raises(UserError, match="no record at"):
        find_record(tmp_path)
