"""Which tasks have a confusion matrix, and what is in it."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from epi_bench import Example, Prediction, Task, TaskCard, ask
from epi_bench.evaluation.confusion import MOST_LABELS, confusion_of
from epi_bench.results.record.record_file import comparable, load_record, record_to_json
from epi_bench.results.record.scores import Confusion

LABELS = ("no", "maybe")


def task(metric="acc", scoring="choice"):
    class Labels(Task):
        card = TaskCard("labels", "ability", scoring, metric, "CC0-1.0")

        def examples(self, split):
            return []

    return Labels()


def example(right, options=LABELS):
    return Example(ask("which?", right), right, options)


def say(*log_likelihoods):
    return Prediction(option_log_likelihoods=log_likelihoods)


ASKED = [example("no"), example("no"), example("maybe", LABELS[::-1])]
SAID = [say(-1, -2), say(-3, -2), say(-2, -4)]  # no, maybe, and (turned round) maybe


def test_the_likeliest_label_is_counted_whatever_the_order_of_the_options():
    found = confusion_of(task(), ASKED, SAID)
    assert found == Confusion(labels=LABELS, counts=((1, 1), (0, 1)))
    assert found.balanced_accuracy == 75.0


def test_it_is_the_choice_that_the_primary_metric_looks_at():
    """-4 / 2 for "no" is less than -5 / 5 for "maybe", though -4 is more than -5."""
    asked, said = [example("no")], [say(-4, -5)]
    assert confusion_of(task("acc"), asked, said).counts == ((1, 0), (0, 0))
    assert confusion_of(task("acc_norm"), asked, said).counts == ((0, 1), (0, 0))
    for metric in ("acc", "acc_norm"):
        right = task().score(asked[0], said[0])[metric]
        assert confusion_of(task(metric), asked, said).counts[0][0] == right


def test_tasks_without_fixed_labels_have_none():
    assert confusion_of(task(scoring="teacher_forced"), ASKED, SAID) is None
    other = [*ASKED[:2], example("no", ("no", "yes"))]
    assert confusion_of(task(), other, SAID) is None
    many = tuple(map(str, range(MOST_LABELS + 1)))
    assert confusion_of(task(), [example("0", many)], [say(*range(len(many)))]) is None


def test_a_matrix_that_is_not_square_is_no_part_of_a_record():
    with pytest.raises(ValidationError, match="counts must have 2 rows of 2 numbers"):
        Confusion(labels=LABELS, counts=((1, 2),))


def test_records_made_before_it_was_kept_are_read_and_comparable(make_run, tmp_path):
    record = make_run()
    content = json.loads(record_to_json(record))
    del content["confusion"], content["spec"]["data"]["options"]
    for facts in content["track"]["facts"]["tasks"].values():
        del facts["options"]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    assert comparable(load_record(path)) == comparable(record)
    labelled = make_run(confusion={"b": {"labels": ["x", "y"], "counts": [[1, 0], [0, 1]]}})
    assert labelled.track == record.track
    assert labelled.run_id == record.run_id
