"""Tasks over rows: counting, skipping, dividing one published split."""

import json
import random

import pytest

from epi_bench import (
    DatasetTask,
    DataSource,
    Example,
    Skipped,
    TaskCard,
    UserError,
    ask,
)
from epi_bench.task.dataset_task import is_test_prompt


def card(splits, files):
    return TaskCard(
        "questions", "toy", "generate", "exact", "MIT",
        source=DataSource("someone/questions", None, "main", splits, files),
    )  # fmt: skip


class Questions(DatasetTask):
    name = "questions"
    card = card(
        {"train": "train", "test": "train"},
        {
            "train": ("questions/all.jsonl",),
            "test": ("questions/test.jsonl", "questions/all.jsonl"),
        },
    )

    def example_from_row(self, row):
        if not row.text("a"):
            return Skipped("empty answer")
        return Example(ask(row.text("q"), row.text("a")), row.text("a"), meta={"row": row.index})


def write(tmp_path, rows, name="all"):
    path = tmp_path / "questions" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps({"q": q, "a": a}) for q, a in rows))


def rows_of(examples):
    return [example.meta["row"] for example in examples]


@pytest.fixture
def rows():
    return [(f"question {n}", f"answer {n}") for n in range(500)]


def test_a_split_is_divided_completely_and_without_overlap(tmp_path, rows):
    write(tmp_path, rows)
    task = Questions(tmp_path)
    train, test = rows_of(task.examples("train")), rows_of(task.examples("test"))
    assert sorted(train + test) == list(range(500))
    assert train == sorted(train)
    assert 30 <= len(test) <= 70  # a tenth, by hash


def test_repeated_prompts_stay_on_one_side_whatever_their_case_and_blanks(tmp_path, rows):
    changed = [(f"  {q.upper()}\n", a) for q, a in rows]
    write(tmp_path, rows + changed)
    task = Questions(tmp_path)
    for split in ("train", "test"):
        positions = set(rows_of(task.examples(split)))
        assert {(position + 500) % 1000 for position in positions} == positions


def test_the_division_does_not_depend_on_order_or_on_other_rows(tmp_path, rows):
    write(tmp_path, rows)
    whole = {e.reference for e in Questions(tmp_path).examples("test")}
    sample = random.Random(0).sample(rows, 200)
    write(tmp_path, sample)
    part = {e.reference for e in Questions(tmp_path).examples("test")}
    assert part == whole & {answer for _, answer in sample}


def test_a_published_test_split_is_not_divided(tmp_path, rows):
    write(tmp_path, rows)
    write(tmp_path, rows[:7], "test")
    task = Questions(tmp_path)
    assert len(task.examples("train")) == 500
    assert len(task.examples("test")) == 7


def test_rows_are_counted_once_over_both_splits(tmp_path, rows):
    rows[3] = rows[7] = ("question", " ")
    write(tmp_path, rows)
    task = Questions(tmp_path)
    train, test = task.report("train"), task.report("test")
    assert train.rows_read == test.rows_read == 500
    assert train.rows + test.rows == 500
    assert train.skipped == {"empty answer": 2}
    assert test.skipped == {}
    assert train.examples == train.rows - 2 == len(task.examples("train"))
    assert test.examples == test.rows


def test_long_splits_are_thinned_evenly(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(Questions, "row_limit", 4)
    write(tmp_path, rows)
    write(tmp_path, rows[:2], "test")
    task = Questions(tmp_path)
    assert rows_of(task.examples("train")) == [0, 125, 250, 375]
    assert rows_of(task.examples("test")) == [0, 1]
    assert (task.report("train").rows_read, task.report("train").rows) == (500, 4)


def test_a_split_without_a_usable_row_is_an_error(tmp_path):
    write(tmp_path, [("q", ""), ("r", "")])
    with pytest.raises(UserError, match=r"all\.jsonl gives no train example for task 'questions'"):
        Questions(tmp_path).examples("train")


def test_every_prompt_is_for_testing_if_one_in_one_is():
    assert all(is_test_prompt(f"prompt {n}", 1) for n in range(10))


def test_the_rule_of_the_division_does_not_change():
    # Published results depend on it. The numbers come from the shell: the first 16 digits of
    # printf "prompt $n" | sha256sum, modulo 10.
    chosen = [n for n in range(100) if is_test_prompt(f"prompt {n}", 10)]
    assert chosen == [5, 26, 27, 31, 35, 58, 61, 64, 66, 97]
