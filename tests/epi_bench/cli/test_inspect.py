"""What ``inspect`` shows of one run and of several."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from epi_bench.cli.inspect import inspect
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish
from epi_bench.results.record.consistency import expected_run_id
from epi_bench.results.record.scores import InterpolationRecord


@pytest.fixture
def call(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    app = typer.Typer()
    app.command()(inspect)
    return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])


def rows(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if "──" not in line]


def test_of_one_run_every_change_is_shown_with_headings(masked_run, call, tmp_path):
    result = call(publish(masked_run, tmp_path))
    assert result.exit_code == 0, result.exception
    shown = rows(result.stdout)
    assert shown[0][0].startswith(f"epi, seed 0, run {masked_run.run_id}: overlap of the mask")
    assert shown[1:5] == [
        ["experience", "step", "previous", "first", "chance", "mlp"],
        ["a", "20", "–", "–", "0.333", "0.250"],
        ["b", "30", "0.800", "0.800", "0.333", "0.750"],
        ["b", "35", "0.600", "0.500", "0.333", "0.750"],
    ]
    assert shown[6][0].startswith("Overlap of the masks at the ends of the experiences")
    assert shown[7:] == [["mask after", "a", "b"], ["a", "1.000", "0.400"], ["b", "0.400", "1.000"]]


def test_several_tables_are_a_list_in_json_and_stand_apart_in_csv(masked_run, call, tmp_path):
    path = publish(masked_run, tmp_path)
    moved, overlap = json.loads(call(path, "--format", "json").stdout)
    assert moved["rows"][0]["mlp"] == "0.250"
    assert overlap["rows"] == [
        {"mask after": "a", "a": "1.000", "b": "0.400"},
        {"mask after": "b", "a": "0.400", "b": "1.000"},
    ]
    blocks = call(path, "--format", "csv").stdout.split("\n\n")
    assert [block.splitlines()[0].split(",")[0] for block in blocks] == ["experience", "mask after"]


def test_a_step_at_which_nothing_changed_has_no_row(masked_run, call, tmp_path):
    first, second, third, last = masked_run.mask_statistics
    again = third.model_copy(update={"step": 33})
    points = (first, second, third, again, last)
    result = call(publish(masked_run.model_copy(update={"mask_statistics": points}), tmp_path))
    assert [row[1] for row in rows(result.stdout)[2:5]] == ["20", "30", "35"]


def test_of_several_runs_the_mean_is_shown(masked_run, make_run, call, tmp_path):
    kept = ("mask_statistics", "experiences")
    changes = {name: getattr(masked_run, name) for name in kept}
    other = make_run(seed=1).model_copy(update=changes)
    for record in (masked_run, other, make_run("ewc")):
        path = publish(record, tmp_path)
    result = call(path.parent)
    assert result.exit_code == 0, result.exception
    shown = rows(result.stdout)
    assert [f"epi on {masked_run.track.name}, 2 runs"] in shown
    assert ["last mask with the first", "0.50", "0.50", "0.50"] in shown
    assert call(path.parent, "--strategy", "epi").stdout == result.stdout
    markdown = call(path.parent, "--format", "markdown").stdout
    assert "| last mask with the first | 0.50 | 0.50 | 0.50 |" in markdown


def test_of_one_run_with_graded_protection_each_part_is_shown(
    graded_run, call, tmp_path, monkeypatch
):
    path = publish(graded_run, tmp_path)
    result = call(path)
    assert result.exit_code == 0, result.exception
    shown = rows(result.stdout)
    assert shown[0][0].startswith(f"ewc, seed 0, run {graded_run.run_id}: which part of the model")
    assert shown[1:] == [
        ["part", "weights", "b"],
        ["attention", "0.250", "0.750"],
        ["mlp", "0.750", "0.250"],
        ["layer 2", "0.500", "0.125"],
        ["layer 10", "0.500", "0.875"],
    ]
    assert "attention,0.250,0.750" in call(path, "--format", "csv").stdout.splitlines()
    (table,) = json.loads(call(path, "--format", "json").stdout)
    assert table["title"].startswith("ewc, seed 0, run")
    assert table["rows"][0] == {"part": "attention", "weights": "0.250", "b": "0.750"}
    assert "| layer 10 | 0.500 | 0.875 |" in call(path, "--format", "markdown").stdout
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, call(path).stdout.splitlines())) <= 80


def test_of_several_runs_with_graded_protection_the_last_experience_counts(
    graded_run, masked_run, make_run, call, tmp_path
):
    changes = {name: getattr(graded_run, name) for name in ("graded_protection", "experiences")}
    (point,) = graded_run.graded_protection
    half = {part: s.model_copy(update={"stiffness": 0.5}) for part, s in point.parts.items()}
    changed = {**changes, "graded_protection": (point.model_copy(update={"parts": half}),)}
    for record in (graded_run, make_run("ewc", seed=1).model_copy(update=changed), masked_run):
        path = publish(record, tmp_path)
    result = call(path.parent)
    assert result.exit_code == 0, result.exception
    shown = rows(result.stdout)
    assert ["attention", "0.250", "0.625", "0.500", "0.750"] in shown
    assert ["last mask with the first", "0.50", "0.50", "0.50"] in shown


def test_a_run_with_graded_protection_is_drawn(graded_run, call, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "graded.png"
    result = call(publish(graded_run, tmp_path), "--out", picture)
    assert result.exit_code == 0, result.exception
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_shown_is_a_user_error(masked_run, make_run, call, tmp_path):
    publish(make_run("ewc", seed=1), tmp_path)
    folder = publish(make_run("ewc"), tmp_path).parent
    assert "none of the 2 runs tells what it protected" in str(call(folder).exception)
    publish(masked_run, tmp_path)
    drawn = call(folder, "--out", tmp_path / "mask.png").exception
    assert isinstance(drawn, UserError)
    assert "--out draws one run, but 3 were given" in str(drawn)
    unknown = call(folder, "--strategy", "epy").exception
    assert "unknown strategy of these runs 'epy': did you mean 'epi'" in str(unknown)


CURVE = {
    "tasks": ["a", "b"],
    "points": [
        {"alpha": 0.0, "values": [0.0, 25.0], "standard_errors": [1.0, 2.0], "nll": 3.0},
        {"alpha": 0.5, "values": [45.0, None], "standard_errors": [1.0, None], "nll": 3.25},
        {"alpha": 1.0, "values": [60.0, 80.0], "standard_errors": [1.0, 2.0], "nll": 4.0},
    ],
}


def test_the_curve_between_base_and_finished_model_is_shown(make_run, masked_run, call, tmp_path):
    """Alone where there is no mask, else after its tables."""
    curve = InterpolationRecord.model_validate(CURVE)
    spec = make_run().spec
    evaluation = spec.evaluation.model_copy(update={"wise_ft_curve": True})
    asked = {"wise_ft": curve, "spec": spec.model_copy(update={"evaluation": evaluation})}
    for record, first in ((make_run(), "WiSE-FT curve"), (masked_run, "overlap of the mask")):
        changed = record.model_copy(update=asked)
        changed = changed.model_copy(update={"run_id": expected_run_id(changed)})
        result = call(publish(changed, tmp_path))
        assert result.exit_code == 0, result.exception
        shown = rows(result.stdout)
        assert f": {first}" in shown[0][0]
        assert shown[-4:] == [
            ["alpha", "a", "b", "general text"],
            ["0", "0.0", "25.0", "3.000"],
            ["0.5", "45.0", "–", "3.250"],
            ["1", "60.0", "80.0", "4.000"],
        ]
