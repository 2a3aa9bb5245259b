"""What a strategy may ask about the tasks of its run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from epi_bench.runs.known_tasks import KnownTasks
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.preparation import prepare_run


def _known(toy_spec, *arguments, **keywords):
    prepared = prepare_run(toy_spec(*arguments, **keywords))
    encode = prepared.encoder.tokenizer

    def ids(text):
        return encode(text, add_special_tokens=False)["input_ids"]

    return KnownTasks(prepared), prepared, ids


def _answer_of(prepared, experience, position):
    example = experience.examples[position]
    text = prepared.encoder.tokenizer.decode(example.input_ids[example.last_answer][:-1])
    return example, text


@pytest.mark.parametrize("index", [0, 1], ids=["teacher_forced", "generate"])
def test_the_given_answer_is_right_and_another_is_wrong(toy_spec, index):
    known, prepared, ids = _known(toy_spec)
    experience = prepared.experiences[index]
    answers, expected = [], []
    for position in (5, 0, 9):
        _, right = _answer_of(prepared, experience, position)
        answers += [(position, ids(right)), (position, ids("purple")), (position, [])]
        expected += [100.0, 0.0, 0.0]
    assert known.answer_scores(experience, answers) == expected
    assert known.answer_scores(experience, []) == []


def test_examples_that_were_left_out_do_not_shift_the_others(toy_spec):
    """Those whose answer lies beyond the longest text are not trained."""
    _, prepared, ids = _known(toy_spec, tasks=["toy_second"])
    task, experience = prepared.tasks["toy_second"], prepared.experiences[0]
    fewer = replace(task, train=task.train[1:], report=replace(task.report, unsupervised=1))
    known = KnownTasks(replace(prepared, tasks={"toy_second": fewer}))
    position = experience.examples.index(task.train[5])
    _, right = _answer_of(prepared, experience, position)
    answers = [(position, ids(right)), (position, ids("purple"))]
    assert known.answer_scores(experience, answers) == [100.0, 0.0]


def test_test_prompts_are_known_and_training_prompts_are_not(toy_spec):
    known, prepared, _ = _known(toy_spec, tasks=["toy_first"], eval_tasks=("toy_choice",))
    test = [
        prepared.encoder.prompt(example.messages).input_ids
        for name in ("toy_first", "toy_choice")
        for example in prepared.scored_tasks[name].test[:3]
    ]
    own = [e.input_ids[: e.last_answer.start] for e in prepared.experiences[0].examples[:4]]
    assert known.test_prompts_among([*test, *own, (1, 2)]) == 6


def test_a_run_trains_on_right_answers_and_says_where_there_is_one_only(run_toy):
    class Listener(RunObserver):
        def __init__(self):
            self.told = []

        def warning(self, message):
            self.told.append(message)

    listener = Listener()
    options = {"candidates": 1, "temperature": 0.0}
    record = run_toy("self_output", options, steps=2, observer=listener).record
    assert [line for line in listener.told if line.startswith("self_output")] == [
        "self_output: a right answer to 'toy_first' is the given one (its scoring is "
        "teacher_forced), so it trains this task as full_sft does"
    ]
    assert record.status == "finished"
    told = record.mask_statistics[-1].values
    assert 0 <= told["replaced_share"] <= 1
    assert told["generated_tokens"] > 0


def test_a_run_whose_model_cannot_write_its_tasks_ends_with_one_line(run_toy):
    record = run_toy("ssr", {"per_task": 4}, steps=2).record
    assert record.status == "failed"
    assert record.error.startswith("UserError: ssr: of 12 texts that the model wrote for 'toy_fir")
    assert "\n" not in record.error
