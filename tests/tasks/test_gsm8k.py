"""GSM8K: the solution that is learned, and scores that agree with lm-evaluation-harness."""

import json

import pytest

from epi_bench import Example, Prediction, UserError
from epi_bench.tasks.gsm8k import GSM8K
from epi_bench.text_scores import number_match

QUESTION = "Ann has 1,000 beads and sells 48/2 of them. How many are left?"
ANSWER = "She sells 48/2 = <<48/2=24>>24.\n1,000 - 24 = <<1000-24=976>>976 are left.\n#### 976"


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split in ("train", "test"):
        row = {"question": QUESTION, "answer": ANSWER}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def score(text, reference="976"):
    example = Example(({"role": "assistant", "content": ""},), reference)
    return GSM8K().score(example, Prediction(text=text))


def test_the_solution_is_learned_without_calculator_marks(data_dir):
    (example,) = GSM8K(data_dir).examples("train")
    assert example.messages == (
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": "She sells 48/2 = 24.\n1,000 - 24 = 976 are left.\n#### 976",
        },
    )
    assert example.reference == "976"


def test_calculator_marks_are_kept_on_request(data_dir):
    (example,) = GSM8K(data_dir, keep_calculator_marks=True).examples("train")
    assert example.messages[-1]["content"] == ANSWER


def test_an_answer_without_its_number_is_named(data_dir):
    (data_dir / "gsm8k" / "train.jsonl").write_text(
        json.dumps({"question": "q", "answer": "#### 1"})
        + "\n"
        + json.dumps({"question": "q", "answer": "it is 1"})
    )
    with pytest.raises(UserError, match=r"gsm8k/train\.jsonl line 2 has an answer without '####"):
        GSM8K(data_dir).examples("train")


# What lm-eval 0.4.13 gives for task gsm8k (version 3), filters strict-match and flexible-extract,
# run over the same answers.
@pytest.mark.parametrize(
    ("text", "reference", "strict", "flexible"),
    [
        ("24 sold.\n#### 976", "976", 1, 1),
        ("#### 976.", "976", 1, 1),
        ("#### 1,976", "1976", 1, 1),
        ("#### $976", "976", 0, 1),
        ("#### 976 beads", "976", 1, 1),
        ("#### 976 of 1000", "976", 1, 0),
        ("#### 975\n#### 976", "976", 0, 1),
        ("####976", "976", 0, 1),
        ("#### -5", "-5", 1, 1),
        ("#### - 5", "-5", 0, 0),
        ("#### 976.00", "976", 0, 0),
        ("#### 2.5", "2.5", 1, 1),
        ("The answer is $1,976.", "1976", 0, 1),
        ("The answer is 5", "5", 0, 1),
        ("The answer is 976, I think...", "976", 0, 0),
        ("no number", "976", 0, 0),
        ("", "976", 0, 0),
    ],
)
def test_scores_agree_with_the_evaluation_harness(text, reference, strict, flexible):
    assert score(text, reference) == {"strict_match": strict, "flexible_match": flexible}


@pytest.mark.real_data
def test_every_published_row_makes_an_example_that_scores_full_marks(real_data):
    task = GSM8K(real_data)
    for split, count in (("train", 7473), ("test", 1319)):
        examples = task.examples(split)
        assert len(examples) == count
        assert task.report(split).skipped == {}
        for example in examples:
            answer = example.messages[-1]["content"]
            assert "<<" not in answer
            assert task.score(example, Prediction(text=answer))["strict_match"] == 1
            assert number_match(answer, example.reference) == 1
    questions = {e.messages[0]["content"] for e in task.examples("train")}
    assert questions.isdisjoint(e.messages[0]["content"] for e in task.examples("test"))
