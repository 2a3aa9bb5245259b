"""Alpaca and CodeAlpaca: prompts, known defects of their rows, division, scores."""

import json

import pytest

from epi_bench import Example, Prediction
from epi_bench.task.instruction_task import alpaca_prompt
from epi_bench.task.text_scores import python_valid
from epi_bench.tasks.alpaca import Alpaca
from epi_bench.tasks.code_alpaca import CodeAlpaca


@pytest.mark.parametrize(
    "no_input",
    ["", "<noinput>", "No Input", "Noinput", "no input.", "`<noinput>`", "[noinput]", "<noinput",
     "No input required.", "N/A", "none"],
)  # fmt: skip
def test_the_ways_to_say_that_there_is_no_input(no_input):
    assert alpaca_prompt("Add.", no_input) == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd."
    )


@pytest.mark.parametrize("text", ["1", "-", "Table: none\n<noinput>", "no inputs are valid"])
def test_anything_else_is_an_input(text):
    assert alpaca_prompt("Add.", text).endswith(f"### Instruction:\nAdd.\n\n### Input:\n{text}")


@pytest.mark.parametrize(
    ("task_type", "file"),
    [(Alpaca, "alpaca/alpaca_data.json"), (CodeAlpaca, "codealpaca/code_alpaca_20k.json")],
)
def test_rows_become_examples_and_defects_are_counted(tmp_path, task_type, file):
    good = [
        {"instruction": f"Do {n}", "input": "", "output": f" done {n}\n", "text": "filled"}
        for n in range(100)
    ]
    defects = [
        {"instruction": "Do", "input": "", "output": " "},
        {"instruction": "", "input": "x", "output": "y"},
        {"instruction": "Do", "input": None, "output": None},
    ]
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(json.dumps(good + defects, indent=1))
    task = task_type(tmp_path)
    examples = [*task.examples("train"), *task.examples("test")]
    assert {example.reference for example in examples} == {f"done {n}" for n in range(100)}
    assert task.report("train").skipped == {"empty output": 2, "empty instruction": 1}
    for example in examples:
        assert [message["role"] for message in example.messages] == ["user", "assistant"]
        assert example.messages[1]["content"] == example.reference


def test_code_is_scored_as_text_and_as_python():
    example = Example(({"role": "assistant", "content": "x = 1"},), "x = 1")
    task = CodeAlpaca()
    assert task.score(example, Prediction(text="x = 1")) == {
        "rouge_l": pytest.approx(1),
        "chrf": pytest.approx(1),
        "python_valid": 1,
    }
    assert task.score(example, Prediction(text="x = (1"))["python_valid"] == 0


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task_type", "rows", "empty_outputs"), [(Alpaca, 5000, 2), (CodeAlpaca, 2017, 2)]
)
def test_published_rows_are_divided_completely(real_data, task_type, rows, empty_outputs):
    task = task_type(real_data)
    train, test = task.examples("train"), task.examples("test")
    assert len(train) + len(test) == rows - empty_outputs
    assert task.report("train").skipped == {"empty output": empty_outputs}
    prompts = [{e.messages[0]["content"].casefold() for e in part} for part in (train, test)]
    assert prompts[0].isdisjoint(prompts[1])
    assert 0.08 < len(test) / rows < 0.12
    best = task.score(test[0], Prediction(text=test[0].reference))
    assert best[task.card.metric] == pytest.approx(1)


@pytest.mark.real_data
def test_many_published_code_answers_are_python(real_data):
    references = [e.reference for e in CodeAlpaca(real_data).examples("test")]
    share = sum(map(python_valid, references)) / len(references)
    assert 0.2 < share < 0.9, share
