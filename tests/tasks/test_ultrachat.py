"""UltraChat: both layouts of a dialogue, defects, and the division of a sample."""

import json

import pytest

from epi_bench import Prediction, UserError
from epi_bench.tasks.ultrachat import UltraChat

TURNS = ["Hi, what is 1+1?", "Two.", "And 2+2?", "Four, of course."]


def chat(*turns):
    return [
        {"role": "assistant" if position % 2 else "user", "content": turn}
        for position, turn in enumerate(turns)
    ]


def task_with(tmp_path, train, test=None):
    folder = tmp_path / "ultrachat"
    folder.mkdir()
    for name, rows in (("train_sft", train), ("test_sft", test)):
        if rows is not None:
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return UltraChat(tmp_path)


def test_both_layouts_give_the_same_example(tmp_path):
    rows = [{"prompt": TURNS[0], "messages": chat(*TURNS)}, {"id": "1", "data": TURNS}]
    task = task_with(tmp_path, rows, test=rows)
    first, second = task.examples("train")
    assert list(first.messages) == list(second.messages) == chat(*TURNS)
    assert first.reference == second.reference == "Four, of course."
    assert list(first.prompt) == chat(*TURNS[:3])


def test_messages_are_kept_to_the_letter(tmp_path):
    rows = [{"messages": chat(" Hi\n", "\n Yes ")}]
    (example,) = task_with(tmp_path, rows, test=rows).examples("train")
    assert [message["content"] for message in example.messages] == [" Hi\n", "\n Yes "]


def test_a_system_message_may_come_first(tmp_path):
    rows = [{"messages": [{"role": "system", "content": "Be kind."}, *chat("Hi", "Hello")]}]
    (example,) = task_with(tmp_path, rows, test=rows).examples("train")
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]


def test_defective_dialogues_are_skipped_and_counted(tmp_path):
    rows = [
        {"messages": chat("Hi", "Hello")},
        {"messages": chat("Hi", " ")},
        {"messages": chat("Hi", "Hello", "Bye")},
        {"messages": chat("Hi", "Hello")[1:]},
        {"messages": []},
        {"messages": None},
        {"prompt": "Hi"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]},
        {"messages": [None]},
    ]
    task = task_with(tmp_path, rows, test=rows[:1])
    assert len(task.examples("train")) == 1
    assert task.report("train").skipped == {
        "empty message": 3,
        "roles do not alternate from user to assistant": 3,
        "no dialogue": 2,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Hi"}, "has no field 'messages' or 'data'; its fields are text"),
        ({"messages": "Hi"}, "has no list of turns"),
        ({"messages": chat("Hi", 3)}, "has a message whose 'role' or 'content' is no text"),
        ({"messages": [{"from": "human", "value": "Hi"}]}, "has a message without 'role'"),
    ],
)
def test_an_unknown_layout_is_an_error_with_its_line(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"train_sft\.jsonl line 1 {message}"):
        task_with(tmp_path, [row], test=[row]).examples("train")


@pytest.mark.real_data
def test_the_published_sample_is_divided(real_data):
    task = UltraChat(real_data)
    train, test = task.examples("train"), task.examples("test")
    assert len(train) + len(test) == 1000
    first = [{e.messages[0]["content"] for e in part} for part in (train, test)]
    assert first[0].isdisjoint(first[1])
    example = test[0]
    assert task.score(example, Prediction(text=example.reference))["rouge_l"] == pytest.approx(1)
    assert task.score(example, Prediction(text=""))["rouge_l"] == 0
