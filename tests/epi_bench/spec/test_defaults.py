"""What is laid over what, and which defaults come in."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.spec.defaults import complete_spec, overlay, overlay_settings


def test_tables_are_merged_at_every_depth_and_nothing_given_is_changed():
    base = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    over = {"a": {"b": {"c": 9}}, "f": {"g": 5}}
    assert overlay(base, over) == {"a": {"b": {"c": 9, "d": 2}, "e": 3}, "f": {"g": 5}}
    assert base == {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"steps": 5}, {"epochs": 2}, {"epochs": 2}),
        ({"epochs": 2}, {"steps": 5}, {"steps": 5}),
        ({"steps": 5}, {"batch_size": 3}, {"steps": 5, "batch_size": 3}),
        ({"steps": 5}, {"steps": 7, "epochs": 2}, {"steps": 7, "epochs": 2}),
        ({"steps": 5}, {"steps": None, "epochs": 2}, {"epochs": 2}),
    ],
)
def test_the_budget_that_is_given_wins(base, over, merged):
    assert overlay_settings({"training": base}, {"training": over}) == {"training": merged}


def test_a_budget_in_epochs_replaces_the_steps_of_tiny():
    training = complete_spec({"training": {"epochs": 3}}).training
    assert (training.steps, training.epochs) == (None, 3.0)


def test_only_true_and_false_say_whether_a_file_is_complete():
    with pytest.raises(UserError, match="complete='yes' must be true or false"):
        complete_spec({"complete": "yes"})


def test_values_of_a_wrong_shape_are_explained():
    for values in ({"model": "tiny"}, {"training": 3}):
        with pytest.raises(UserError, match="valid dictionary"):
            complete_spec(values)
