"""HumanEval and MBPP: what is asked, who learns what, and reference solutions that pass."""

import gzip
import json

import pytest

from epi_bench import Prediction, UserError
from epi_bench.tasks.humaneval import HumanEval
from epi_bench.tasks.mbpp import MBPP

STUB = 'def add_{n}(x):\n    """ Add {n}.\n    """\n'


def function_rows(count):
    return [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": STUB.format(n=n),
            "entry_point": f"add_{n}",
            "canonical_solution": f"    return x + {n}\n",
            "test": f"\n\ndef check(candidate):\n    assert candidate(1) == {n + 1}\n",
        }
        for n in range(count)
    ]


def problem_row(number, code="def f(x):\r\n\treturn x + 1", **changes):
    return {
        "task_id": number,
        "text": f"Write function number {number}.",
        "code": code,
        "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
        "test_setup_code": "",
        "challenge_test_list": [],
        **changes,
    }


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path.parent.parent


def test_a_function_is_asked_for_and_answered_whole(tmp_path):
    data_dir = write_rows(tmp_path / "humaneval" / "test.jsonl", function_rows(20))
    task = HumanEval(data_dir)
    examples = {e.meta["task_id"]: e for s in ("train", "test") for e in task.examples(s)}
    question, answer = (m["content"] for m in examples["HumanEval/3"].messages)
    assert question == (
        "Complete the following Python function. Answer with the whole function in a Python code "
        'block.\n\n```python\ndef add_3(x):\n    """ Add 3.\n    """\n```'
    )
    assert answer == '```python\ndef add_3(x):\n    """ Add 3.\n    """\n    return x + 3\n```'


def test_functions_are_divided_by_their_prompt(tmp_path):
    rows = function_rows(60)
    task = HumanEval(write_rows(tmp_path / "a" / "humaneval" / "test.jsonl", rows))
    train, test = ({e.meta["task_id"] for e in task.examples(s)} for s in ("train", "test"))
    assert train | test == {row["task_id"] for row in rows}
    assert train & test == set()
    assert 15 < len(test) < 45  # 60 fair coins
    reordered = HumanEval(write_rows(tmp_path / "b" / "humaneval" / "test.jsonl", rows[::-1]))
    assert {e.meta["task_id"] for e in reordered.examples("test")} == test


def test_the_compressed_file_gives_the_same(tmp_path):
    rows = function_rows(20)
    plain = HumanEval(write_rows(tmp_path / "a" / "humaneval" / "HumanEval.jsonl", rows))
    packed = HumanEval(write_rows(tmp_path / "b" / "humaneval" / "HumanEval.jsonl.gz", rows))
    assert plain.examples("test") == packed.examples("test")


def test_a_broken_compressed_file_is_named(tmp_path):
    data_dir = write_rows(tmp_path / "humaneval" / "HumanEval.jsonl.gz", function_rows(20))
    file = data_dir / "humaneval" / "HumanEval.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"humaneval/HumanEval\.jsonl\.gz cannot be decompressed"):
        HumanEval(data_dir).examples("test")


def test_a_problem_is_asked_with_its_tests(tmp_path):
    task = MBPP(write_rows(tmp_path / "mbpp" / "mbpp.jsonl", [problem_row(601), problem_row(11)]))
    (example,) = task.examples("train")
    question, answer = (m["content"] for m in example.messages)
    assert question == (
        "You are an expert Python programmer, and here is your task: Write function number 601. "
        "Your code should pass these tests:\n\nassert f(1) == 2\nassert f(2) == 3"
    )
    assert answer == "```python\ndef f(x):\n\treturn x + 1\n```"


def test_problems_belong_to_the_published_splits(tmp_path):
    task = MBPP(write_rows(tmp_path / "mbpp" / "mbpp.jsonl", map(problem_row, range(1, 975))))
    numbers = {s: [e.meta["task_id"] for e in task.examples(s)] for s in ("train", "test")}
    assert numbers == {"train": list(range(601, 975)), "test": list(range(11, 511))}
    assert task.report("test").rows_read == 974
    assert task.report("test").rows == 500


def test_a_copy_of_the_hub_repository_gives_the_same_problems(tmp_path, monkeypatch):
    import datasets.config
    from datasets import Dataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [problem_row(number) for number in (5, 11, 12, 510, 511, 601, 974)]
    published = MBPP(write_rows(tmp_path / "published" / "mbpp" / "mbpp.jsonl", rows))
    folder = tmp_path / "copied" / "google-research-datasets" / "mbpp" / "full"
    folder.mkdir(parents=True)
    parts = {"prompt": [0], "test": [1, 2, 3], "validation": [4], "train": [5, 6]}
    for split, positions in parts.items():
        part = Dataset.from_list([rows[position] for position in positions])
        part.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    copied = MBPP(tmp_path / "copied")
    for split in ("train", "test"):
        ours, theirs = published.examples(split), copied.examples(split)
        assert [e.messages for e in ours] == [e.messages for e in theirs]
        assert [e.meta["task_id"] for e in ours] == [e.meta["task_id"] for e in theirs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_list": "assert f(1)"}, "'test_list' is no list of tests"),
        ({"test_list": []}, "'test_list' is no list of tests"),
        ({"code": 1}, "'code' is no text but 1"),
        ({"task_id": "11"}, "'task_id' is no number but '11'"),
    ],
)
def test_broken_problems_are_named(tmp_path, changes, message):
    rows = [problem_row(12), problem_row(11) | changes]
    task = MBPP(write_rows(tmp_path / "mbpp" / "mbpp.jsonl", rows))
    with pytest.raises(UserError, match=rf"mbpp/mbpp\.jsonl line 2 field {message}"):
        task.examples("test")


def test_problems_that_lack_a_value_are_left_out_and_counted(tmp_path):
    changes = ({"code": None}, {"text": None}, {"test_list": None}, {"test_setup_code": None})
    rows = [problem_row(11 + number) | change for number, change in enumerate(changes)]
    rows += [problem_row(20) | {"task_id": None}, problem_row(601)]
    task = MBPP(write_rows(tmp_path / "mbpp" / "mbpp.jsonl", rows))
    assert [example.meta["row"] for example in task.examples("test")] == [3]
    assert task.report("test").skipped == {"empty code": 1, "empty text": 1, "no tests": 1}
    assert len(task.examples("train")) == 1
    assert task.report("train").skipped == {"no task_id": 1}


def test_the_tests_see_of_a_program_what_the_reference_defines(tmp_path):
    code = "import math\nclass Pair:\n    pass\ndef sum(a):\n    return a\ndef other(): pass"
    row = problem_row(11, code, test_list=["assert sum(Pair()) and math.pi and abs(1) == 1"])
    task = MBPP(write_rows(tmp_path / "mbpp" / "mbpp.jsonl", [row]))
    program = task.program(task.examples("test")[0], "abs = 3")
    assert program.names == ("Pair", "sum")
    assert program.preparation == "import math"
    assert program.source == "abs = 3"


@pytest.mark.multi_process
@pytest.mark.parametrize("task_type", [HumanEval, MBPP])
def test_right_and_wrong_programs(tmp_path, task_type):
    write_rows(tmp_path / "humaneval" / "test.jsonl", function_rows(20))
    write_rows(tmp_path / "mbpp" / "mbpp.jsonl", [problem_row(n) for n in range(11, 14)])
    task = task_type(tmp_path)
    example = task.examples("test")[0]
    right = example.messages[-1]["content"]
    wrong = right.replace("return x + ", "return 1 - x - ")
    assert wrong != right
    predictions = [Prediction(right), Prediction(wrong), Prediction("")]
    scores = task.score_all([example] * 3, predictions)
    assert [score["pass_at_1"] for score in scores] == [1, 0, 0]


@pytest.mark.real_data
@pytest.mark.multi_process
@pytest.mark.parametrize("task_type", [HumanEval, MBPP])
def test_published_reference_solutions_pass(real_data, task_type):
    task = task_type(real_data)
    assert task.report("train").skipped == task.report("test").skipped == {}
    examples = task.examples("test")
    sample = examples[:: len(examples) // 20][:20]
    verdicts = task.verdicts(sample, [e.messages[-1]["content"] for e in sample])
    failed = {e.meta["task_id"]: v for e, v in zip(sample, verdicts, strict=True) if not v.passed}
    assert failed == {}
    # A reference solution does not pass another problem's tests.
    shifted = task.verdicts(sample[:5], [e.messages[-1]["content"] for e in sample[1:6]])
    assert not any(verdict.passed for verdict in shifted)


@pytest.mark.real_data
def test_published_rows_are_counted(real_data):
    assert [len(HumanEval(real_data).examples(s)) for s in ("train", "test")] == [90, 74]
    assert [len(MBPP(real_data).examples(s)) for s in ("train", "test")] == [374, 500]
