"""Reading and drawing how a mask moved."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.masks.figure import draw_mask
from epi_bench.results.masks.trace import find_record, trace_mask
from epi_bench.results.record.circumstances import ExperienceRecord
from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.scores import Diagnostics

POINTS = (
    Diagnostics(step=10, values={}),
    Diagnostics(
        step=20, values={"achieved_ratio": 0.5, "jaccard_chance": 1 / 3, "protected_mlp": 0.25}
    ),
    Diagnostics(
        step=30,
        values={
            "achieved_ratio": 0.5,
            "jaccard_chance": 1 / 3,
            "jaccard_previous": 0.8,
            "jaccard_first": 0.8,
            "protected_mlp": 0.75,
            "protected_layer_10": 0.5,
            "protected_layer_2": 0.25,
        },
    ),
    Diagnostics(
        step=35,
        values={
            "achieved_ratio": 0.5,
            "jaccard_chance": 1 / 3,
            "jaccard_previous": 0.6,
            "jaccard_first": 0.5,
            "jaccard_experience_1": 0.4,
            "protected_mlp": 0.75,
        },
    ),
)


@pytest.fixture
def record(make_run):
    experiences = tuple(
        ExperienceRecord(name=name, tasks=(name,), steps=steps, examples=9)
        for name, steps in (("a", 20), ("b", 15))
    )
    changes = {"mask_statistics": POINTS, "experiences": experiences}
    return make_run().model_copy(update=changes)


def test_statistics_are_sorted_by_what_they_are_about(record):
    trace = trace_mask(record)
    assert trace.steps == (20, 30, 35)
    assert trace.drift["jaccard_previous"] == (None, 0.8, 0.6)
    assert trace.protected == {"mlp": (0.25, 0.75, 0.75)}
    assert list(trace.layers) == ["layer_2", "layer_10"]
    assert trace.layers["layer_10"] == (0, 0.5, 0)
    assert trace.boundaries == (("a", 20), ("b", 35))
    assert trace.overlap.experiences == ("a", "b")
    assert trace.overlap.jaccard == ((1, 0.4), (0.4, 1))


def test_a_record_without_the_overlap_of_tasks_is_shown_all_the_same(record):
    older = record.model_copy(
        update={"mask_statistics": (*POINTS[:3], POINTS[1].model_copy(update={"step": 35}))}
    )
    assert trace_mask(older).overlap.experiences == ()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_drawn(record, tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"mask.{ending}"
    draw_mask(record, path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert path.read_bytes().startswith(begins[ending])


def test_what_cannot_be_shown_is_said(record, make_run, tmp_path):
    with pytest.raises(UserError, match="no mask statistics"):
        trace_mask(make_run())
    with pytest.raises(UserError, match=r"must end in \.png"):
        draw_mask(record, tmp_path / "mask.jpeg")
    with pytest.raises(UserError, match="no record at"):
        find_record(tmp_path)


def test_the_command_prints_every_point(record, tmp_path, monkeypatch, capsys):
    from epi_bench.cli.app import main

    save_record(record, tmp_path / "record.json")
    monkeypatch.setattr("sys.argv", ["epi-bench", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["step", "previous", "first", "chance", "mlp"],
        ["20", "–", "–", "0.333", "0.250"],
        ["30", "0.800", "0.800", "0.333", "0.750"],
        ["35", "0.600", "0.500", "0.333", "0.750"],
        [],
        ["a", "b"],
        ["a", "1.000", "0.400"],
        ["b", "0.400", "1.000"],
    ]
