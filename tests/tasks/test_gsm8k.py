"""GSM8K: the solution that is learned, and scores that agree with lm-evaluation-harness."""

import json
import random

import pytest

from epi_bench import (
    Example,
    Prediction,
    UserError,
    marked_number,
)
from epi_bench.task.text_scores import number_match
from epi_bench.tasks.gsm8k import GSM8K

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


def test_a_row_without_question_or_answer_is_left_out_and_counted(data_dir):
    rows = [{"question": QUESTION, "answer": ANSWER}, {"question": "q", "answer": None}]
    rows += [{"question": float("nan"), "answer": ANSWER}, {"answer": ANSWER}, {"question": "q"}]
    (data_dir / "gsm8k" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = GSM8K(data_dir)
    assert [example.meta["row"] for example in task.examples("train")] == [0]
    assert task.report("train").skipped == {"empty answer": 2, "empty question": 2}


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
        ("#### 1,234,567", "1234567", 1, 1),
        ("#### -$5", "-5", 0, 1),
        ("It costs $1,234.50", "1234.50", 0, 1),
        ("#### .5", ".5", 1, 1),
        ("#### +5", "5", 0, 1),
        ("no number", "976", 0, 0),
        ("", "976", 0, 0),
    ],
)
def test_scores_agree_with_the_evaluation_harness(text, reference, strict, flexible):
    scores = score(text, reference)
    assert (scores["strict_match"], scores["flexible_match"]) == (strict, flexible)


def test_the_number_is_also_compared_by_value():
    assert score("#### $976.00 in 2 parts")["number_match"] == 1
    assert score("It is 975.")["number_match"] == 0


def test_scores_agree_with_the_installed_evaluation_harness():
    """Its filters and its metric, over answers made of what goes wrong in numbers."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    filters = {
        "strict_match": RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)"),
        "flexible_match": RegexFilter(
            regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1
        ),
    }
    pieces = ["#### ", "####", " ", "-", "$", "1", "12", "1,234", ".", "5.50", "18.00", "-3",
              "\n", "so", "%", "0", ",", "..", "$1,000.00", "#### 7", "- 4", "1e5", "½",
              "+5"]  # fmt: skip
    generator = random.Random(0)
    matches = 0
    for _ in range(5000):
        text = "".join(generator.choices(pieces, k=generator.randrange(8)))
        published = generator.choice(["5", "-3", "1,234", "18", "7", "12", "0.5", "1000.00"])
        ours = score(text, marked_number(f"#### {published}"))
        for name, extract in filters.items():
            extracted = next(iter(next(iter(extract.apply([[text]], [None])))))
            theirs = exact_match_hf_evaluate(
                [extracted],
                [f"work\n#### {published}"],
                regexes_to_ignore=[",", r"\$", "(?s).*#### ", r"\.$"],
                ignore_case=True,
            )
            assert ours[name] == theirs["exact_match"], (name, text, published)
            matches += ours[name]
    assert matches > 100


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
