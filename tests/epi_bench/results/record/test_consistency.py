"""What a record says twice must agree, and every derived number is derived again."""

from __future__ import annotations

import base64
import copy
import json
import random
import zlib
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.results.record.consistency import (
    DamagedRecordError,
    check_record,
    disagreements,
    expected_run_id,
)
from epi_bench.results.record.items import pack_items
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord

PUBLISHED = sorted((Path(__file__).parents[4] / "leaderboards").glob("*/*.json"))


@pytest.fixture(scope="module")
def content(make_run):
    """The JSON of a record that agrees with itself."""
    record = make_run(references=(75.0, 85.0))
    items = {
        "a": pack_items({str(i): 100.0 if i < 18 else 0.0 for i in range(30)}),  # 60
        "b": pack_items({str(i): 100.0 if i < 32 else 0.0 for i in range(40)}),  # 80
    }
    record = record.model_copy(update={"item_scores": items})
    return record.model_copy(update={"run_id": expected_run_id(record)}).model_dump(mode="json")


def changed(content, path, value):
    """The record with one value replaced."""
    head, *rest = path

    def put(part, keys):
        if not keys:
            return value
        key, *below = keys
        if isinstance(part, list):
            return [put(x, below) if i == key else x for i, x in enumerate(part)]
        return {**part, key: put(part.get(key) if below else None, below)}

    return RunRecord.model_validate({**content, head: put(content[head], rest)})


def test_a_record_that_agrees_with_itself(content):
    assert disagreements(RunRecord.model_validate(content)) == []


@pytest.mark.parametrize("path", PUBLISHED[::9], ids=lambda path: path.stem)
def test_published_records_agree_with_themselves(path):
    assert disagreements(load_record(path)) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("metrics", "average_accuracy"), 99.9, r"average_accuracy is 99.9, .* gives 70"),
        (("metrics", "backward_transfer"), None, r"backward_transfer is undefined, .* gives -10"),
        (("metrics", "glory"), 100.0, r"metrics.glory is 100, .* no such metric"),
        (("run_id",), "0123456789ab", r"run_id is 0123456789ab"),
        (("spec", "seed"), 7, r"run_id is"),
        (("spec", "training", "learning_rate"), 0.5, r"run_id is"),
        (("strategy", "hyperparameters", "ratio"), 0.1, r"run_id is"),
        (("strategy", "name"), "other", r"strategy.name is 'other'"),
        (("fingerprints", "model"), "m2", r"run_id is"),
        (("task_order",), ["b", "a"], r"score_matrix.columns is \['a', 'b'\]"),
        (("score_matrix", "rows", 0), "start", r"rows.0 is 'start'"),
        (("score_matrix", "values", 2, 0), 150.0, r"values.b is 150, .* 0 to 100"),
        (("score_matrix", "values", 2, 0), -1.0, r"values.b is -1, .* 0 to 100"),
        (("score_matrix", "values", 2, 0), 90.0, r"metrics.average_accuracy is 70, .* gives 85"),
        (("score_matrix", "n", 0), -3, r"score_matrix.n is -3"),
        (("score_matrix", "n", 0), 31, r"item_scores.a is 30 items, .* gives 31"),
        (("score_matrix", "standard_errors", 1, 1), -0.5, r"standard_errors.a is -0.5"),
        (("score_matrix", "columns", 0, "metric"), "acc", r"columns.a.metric is acc"),
        (("reference_scores", "a"), 101.0, r"reference_scores is 101"),
        (("reference_scores",), {"a": 75.0}, r"reference_scores is \['a'\]"),
        (("reference_scores", "a"), 60.0, r"metrics.intransigence is"),
        (("cost", "training_seconds"), -1.0, r"cost.training_seconds is -1"),
        (("skipped_steps",), -1, r"skipped_steps is -1"),
        (
            ("experiences",),
            [{"name": "a", "tasks": ["a"], "steps": -1, "examples": 3}],
            r"experiences.a is -1, .* not negative",
        ),
        (
            ("task_data",),
            {
                "a": {
                    "train_examples": 3,
                    "test_examples": 3,
                    "skipped_rows": {"test": {"no answer": -2}},
                }
            },
            r"task_data.a is -2",
        ),
        (
            ("confusion",),
            {"a": {"labels": ["x", "y"], "counts": [[1, -1], [0, 2]]}},
            r"confusion.a is -1",
        ),
        (
            ("gradient_conflict",),
            {
                "tasks": ["a", "b"],
                "examples": 1,
                "coordinates": 9,
                "points": [{"row": "a", "cosines": [[1.0, -1.1], [-1.1, 1.0]]}],
            },
            r"gradient_conflict.a is -1.1, .* -1 to 1",
        ),
        (
            ("judge",),
            {
                "model": "m",
                "prompt_fingerprint": "p",
                "rows": [{"row": "b", "tasks": {"a": {"mean": 11.0, "n": 3}}}],
            },
            r"judge.b.a.mean is 11, .* 0 to 10",
        ),
        (("item_scores", "a"), pack_items({"0": 50.0}), r"item_scores.a is 1 items"),
        (("item_scores", "a"), pack_items({str(i): 50.0 for i in range(30)}), r"values.b.a is 60"),
        (("item_scores", "c"), pack_items({"0": 50.0}), r"item_scores.c"),
        (("environment", "execution"), {"device": "cuda"}, r"run_id is"),
        (("environment", "processes"), 2, r"examples_per_step is 20, .* gives 40"),
    ],
)
def test_a_changed_value_is_found(content, path, value, told):
    with pytest.raises(UserError, match=f"contradicts itself: .*{told}"):
        check_record(changed(content, path, value))


def packed(text):
    return base64.b64encode(zlib.compress(text.encode())).decode()


@pytest.mark.parametrize(
    "text", ['{"0": "100"}', '{"0": true}', '{"0": NaN}', '{"0": 1e999}', "[1]", '{"0": [1]}']
)
def test_item_scores_that_are_no_numbers_are_damage(content, text):
    with pytest.raises(DamagedRecordError, match="packed item scores are damaged"):
        check_record(changed(content, ("item_scores", "a"), packed(text)))


def test_a_matrix_without_a_scored_point_is_refused(content):
    matrix = {
        **content["score_matrix"],
        "rows": ["base"],
        "values": content["score_matrix"]["values"][:1],
        "standard_errors": content["score_matrix"]["standard_errors"][:1],
        "columns": [{**c, "learned_at": None} for c in content["score_matrix"]["columns"]],
    }
    record = RunRecord.model_validate({**content, "score_matrix": matrix})
    with pytest.raises(UserError, match=r"score_matrix.rows is 1, but .* at least 2"):
        check_record(record)


def test_rounding_in_the_last_digits_is_no_contradiction(content):
    close = changed(content, ("metrics", "average_accuracy"), 70.0 + 1e-9)
    assert disagreements(close) == []


ODD_VALUES = [None, True, -1, 0, 1e308, -1e308, "", "\ud800", "a" * 1000, [], {}, [[]], [None], 3.7,
              {"x": 1}, [1, 2, 3], {"\ud800": 1}, 10**17, 10**400]  # fmt: skip


def _places(value, path=()):
    if path:
        yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _places(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _places(below, (*path, index))


@pytest.mark.parametrize("seed", range(4))
def test_no_changed_file_is_more_than_one_line(content, tmp_path, seed):
    """150 records with one value replaced, removed or added: read as they are, or refused."""
    draws, path = random.Random(seed), tmp_path / "record.json"
    conflict = {"tasks": ["a", "b"], "examples": 3, "coordinates": 9,
                "points": [{"row": "a", "cosines": [[1.0, 0.5], [0.5, 1.0]]}]}  # fmt: skip
    places = list(_places({**content, "gradient_conflict": conflict}))
    refused = 0
    for _ in range(150):
        changed = copy.deepcopy({**content, "gradient_conflict": conflict})
        *above, last = draws.choice(places)
        part = changed
        for key in above:
            part = part[key]
        odd = draws.choice(ODD_VALUES)
        match draws.choice(["replace", "replace", "remove", "add"]):
            case "replace":
                part[last] = odd
            case "remove":
                del part[last]
            case "add" if isinstance(part, dict):
                part["more"] = odd
            case "add":
                part.insert(last, odd)
        path.write_text(json.dumps(changed))
        try:
            load_record(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert refused > 75
