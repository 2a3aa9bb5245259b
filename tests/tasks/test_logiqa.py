"""LogiQA: both layouts, the harness's prompt, and what is trained on where train is missing."""

import json

import pytest

from epi_bench import Prediction, UserError
from epi_bench.tasks.logiqa import LogiQA

ROW = {
    "context": "All cats are grey.",
    "query": "Which follows?",
    "options": ["This cat is grey", "No cat is grey", "Dogs are grey", "Nothing"],
    "correct_option": 0,
}


def task_with(tmp_path, **splits):
    folder = tmp_path / "logiqa"
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return LogiQA(tmp_path)


def test_the_prompt_is_that_of_the_evaluation_harness(tmp_path):
    (example,) = task_with(tmp_path, test=[ROW]).examples("test")
    assert example.messages[0]["content"] == (
        "Passage: All cats are grey.\nQuestion: Which follows?\nChoices:\n"
        "A. This cat is grey\nB. No cat is grey\nC. Dogs are grey\nD. Nothing\nAnswer:"
    )
    assert example.messages[1]["content"] == example.reference == "This cat is grey"
    assert example.options == tuple(ROW["options"])


def test_both_layouts_give_the_same_example(tmp_path):
    other = {
        "label": "C\n",
        "context": ROW["context"],
        "question": ROW["query"],
        "options": ROW["options"],
    }
    task = task_with(tmp_path, train=[{**ROW, "correct_option": 2}], test=[other])
    assert task.examples("train") == task.examples("test")


def test_parquet_shards_give_the_same_examples_as_lines(tmp_path, monkeypatch):
    import datasets.config
    from datasets import Dataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{**ROW, "correct_option": position} for position in range(4)]
    folder = tmp_path / "hub" / "lucasmccabe" / "logiqa" / "default" / "train"
    folder.mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(str(folder / "0000.parquet"))
    lines = task_with(tmp_path, train=rows)
    assert LogiQA(tmp_path / "hub").examples("train") == lines.examples("train")


def test_the_train_split_is_taken_where_it_is_there(tmp_path):
    other = {**ROW, "query": "Which does not?"}
    task = task_with(tmp_path, train=[ROW], validation=[other], test=[ROW])
    assert "Which follows?" in task.examples("train")[0].messages[0]["content"]


def test_without_it_the_validation_split_is_trained_on(tmp_path):
    other = {**ROW, "query": "Which does not?"}
    task = task_with(tmp_path, validation=[other], test=[ROW])
    assert "Which does not?" in task.examples("train")[0].messages[0]["content"]
    assert task.report("train").origin.endswith("logiqa/validation.jsonl")


def test_an_answer_that_is_printed_twice_is_one_option(tmp_path):
    row = {**ROW, "options": ["a", "b", "b", "c"], "correct_option": 2}
    task = task_with(tmp_path, test=[row])
    (example,) = task.examples("test")
    assert example.options == ("a", "b", "c")
    assert "B. b\nC. b\n" in example.messages[0]["content"]
    prediction = Prediction(option_log_likelihoods=(-3.0, -1.0, -2.0))
    assert task.score(example, prediction) == {"acc": 1.0, "acc_norm": 1.0}


def test_length_is_divided_out_of_the_normalised_score(tmp_path):
    row = {**ROW, "options": ["yes", "certainly not", "perhaps", "never"], "correct_option": 1}
    task = task_with(tmp_path, test=[row])
    (example,) = task.examples("test")
    # Per character: -1, -0.31, -0.86, -1.2
    prediction = Prediction(option_log_likelihoods=(-3.0, -4.0, -6.0, -6.0))
    assert task.score(example, prediction) == {"acc": 0.0, "acc_norm": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct_option": 4}, "has the right answer 4, which is none of a to d or 0 to 3"),
        ({"correct_option": "e"}, "has the right answer 'e'"),
        ({"options": ["a", "b"]}, "has no list of 4 answers in field 'options'"),
        ({"options": "abcd"}, "has no list of 4 answers"),
    ],
)
def test_a_broken_row_is_an_error_with_its_line(tmp_path, change, message):
    with pytest.raises(UserError, match=rf"logiqa/test\.jsonl line 2 {message}"):
        task_with(tmp_path, test=[ROW, {**ROW, **change}]).examples("test")


def test_rows_that_lack_a_value_are_left_out_and_counted(tmp_path):
    changes = [
        *({"context": None}, {"query": float("nan")}, {"correct_option": None}),
        *({"options": None}, {"options": ["a", None, "c", "d"]}, {}),
    ]
    task = task_with(tmp_path, test=[{**ROW, **change} for change in changes])
    assert [example.meta["row"] for example in task.examples("test")] == [5]
    assert task.report("test").skipped == {
        "empty passage": 1, "no right answer": 1, "empty question or answer": 3,
    }  # fmt: skip


@pytest.mark.real_data
def test_published_rows(real_data):
    task = LogiQA(real_data)
    for split in ("train", "test"):
        examples = task.examples(split)
        assert len(examples) == 651
        assert all(example.reference in example.options for example in examples)
    assert sum(len(example.options) < 4 for example in task.examples("train")) == 4
    assert task.report("train").origin.endswith("validation.jsonl")


@pytest.mark.real_data
def test_the_published_layouts_agree_on_the_right_answers(real_data, tmp_path):
    (tmp_path / "logiqa").mkdir()
    source = real_data / "logiqa" / "validation_eleutherai.jsonl"
    (tmp_path / "logiqa" / "validation_eleutherai.jsonl").symlink_to(source)
    one, other = LogiQA(real_data).examples("train"), LogiQA(tmp_path).examples("train")
    squeezed = ["".join(example.reference.split()) for example in one]
    changed = ["".join(example.reference.split()) for example in other]
    # Options without a plain letter before them lose their first two characters over there.
    assert sum(a != b and a[2:] != b for a, b in zip(squeezed, changed, strict=True)) == 0


TEXT_ROW = "\nc\nAll cats are grey.\nWhich follows?\nA.Grey cats\nB? Two cats\nC No cat\nd.A dog\n"


def text_task(tmp_path, content, name="Test.txt"):
    (tmp_path / "logiqa").mkdir()
    (tmp_path / "logiqa" / name).write_bytes(content.encode())
    return LogiQA(tmp_path)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_authors_text_files_are_read(tmp_path, line_end):
    content = (TEXT_ROW * 2).replace("\n", line_end)
    examples = text_task(tmp_path, content).examples("test")
    assert len(examples) == 2
    assert examples[0].options == ("Grey cats", "Two cats", "No cat", "A dog")
    assert examples[0].reference == "No cat"
    assert (
        "Passage: All cats are grey.\nQuestion: Which follows?" in examples[0].prompt[0]["content"]
    )


def test_the_answer_letter_counts_positions_whatever_letters_are_printed(tmp_path):
    row = "\nb\ncontext\nquestion\nA.first\nC.second\nA third\nD.fourth"
    (example,) = text_task(tmp_path, row).examples("test")
    assert example.options == ("first", "second", "A third", "fourth")
    assert example.reference == "second"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (TEXT_ROW + "\na\ncontext\nquestion\nA.one", 9),
        (TEXT_ROW + "\n" + TEXT_ROW, 9),
        ("context\n" + TEXT_ROW, 1),
        (TEXT_ROW.replace("\nc\n", "\ne\n"), 1),
    ],
)
def test_a_broken_text_file_is_an_error_with_its_line(tmp_path, content, line):
    with pytest.raises(UserError, match=rf"^logiqa/Test\.txt line {line}: no row of 8 lines"):
        text_task(tmp_path, content).examples("test")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("text", "lines", "split"),
    [("Eval.txt", "validation.jsonl", "train"), ("Test.txt", "test.jsonl", "test")],
)
def test_the_published_text_files_give_the_same_examples(real_data, tmp_path, text, lines, split):
    found = []
    for name in (text, lines):
        folder = tmp_path / name / "logiqa"
        folder.mkdir(parents=True)
        (folder / name).symlink_to(real_data / "logiqa" / name)
        found.append(LogiQA(tmp_path / name).examples(split))
    assert found[0] == found[1]
    assert len(found[0]) == 651
