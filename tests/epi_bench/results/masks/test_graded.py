"""Reading and drawing where graded protection was."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.masks.figure import draw_graded
from epi_bench.results.masks.graded import GradedPart, trace_graded
from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.record_file import comparable
from epi_bench.results.record.scores import GradedProtection


def test_parts_are_kinds_then_layers_from_the_bottom(graded_run):
    trace = trace_graded(graded_run)
    assert trace.experiences == ("b",)
    assert trace.parts == (
        GradedPart("attention", 0.25, (0.75,)),
        GradedPart("mlp", 0.75, (0.25,)),
        GradedPart("layer_2", 0.5, (0.125,)),
        GradedPart("layer_10", 0.5, (0.875,)),
    )


def test_experiences_of_one_name_have_their_number(graded_run):
    first, second = graded_run.experiences
    twice = graded_run.model_copy(
        update={
            "experiences": (first, second.model_copy(update={"name": "a"})),
            "graded_protection": (
                graded_run.graded_protection[0].model_copy(update={"experience": 0}),
                *graded_run.graded_protection,
            ),
        }
    )
    assert trace_graded(twice).experiences == ("1 a", "2 a")


def test_a_part_that_one_experience_lacks_has_no_stiffness_there(graded_run):
    (point,) = graded_run.graded_protection
    parts = {"mlp": point.parts["mlp"]}
    less = GradedProtection(experience=0, parts=parts)
    run = graded_run.model_copy(update={"graded_protection": (less, point)})
    assert trace_graded(run).parts[0] == GradedPart("attention", 0.125, (0.0, 0.75))


def test_a_record_of_before_it_was_measured_is_the_same_run(graded_run):
    older = graded_run.model_copy(update={"graded_protection": ()})
    assert comparable(older) == comparable(graded_run)
    with pytest.raises(UserError, match=r"has no graded protection: .* again with force"):
        trace_graded(older)


def test_an_experience_that_there_was_not_is_a_contradiction(graded_run):
    (point,) = graded_run.graded_protection
    wrong = graded_run.model_copy(
        update={"graded_protection": (point.model_copy(update={"experience": 2}),)}
    )
    fields = {found.field for found in disagreements(wrong)}
    assert "graded_protection.experience" in fields
    assert "graded_protection.experience" not in {f.field for f in disagreements(graded_run)}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_drawn(graded_run, tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"graded.{ending}"
    draw_graded(graded_run, path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert path.read_bytes().startswith(begins[ending])
