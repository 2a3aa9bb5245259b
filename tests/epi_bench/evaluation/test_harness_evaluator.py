"""Scoring by lm-evaluation-harness, beside what the model says to the same tokens."""

from __future__ import annotations

import copy
import random

import numpy
import pytest
import torch

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.evaluation.evaluator import Evaluator, evaluator_of
from epi_bench.evaluation.harness_evaluator import HarnessEvaluator
from epi_bench.task.task import create_task


@pytest.fixture
def evaluator(harness_folder, encoder):
    """Makes evaluators of the harness's tasks."""

    def make(name, batch_size=4, rows=None, max_new_tokens=None, **options):
        task = create_task(f"lm_eval:{name}", options=options)
        examples = task.examples("test")
        chosen = examples if rows is None else [examples[row] for row in rows]
        return evaluator_of(task, chosen, encoder, batch_size, max_new_tokens)

    return make


def _log_likelihood(model, tokenizer, prompt, answer):
    """Sum over the answer's tokens, the whole text encoded at once as the harness does."""
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logits[i - 1, whole[i]]) for i in range(start, len(whole)))


def test_a_choice_is_scored_as_the_model_says(evaluator, model, encoder):
    made = evaluator("epi_words", metric="acc")
    scores = made.score(model)
    assert isinstance(made, HarnessEvaluator)
    right = []
    for example, found in zip(made.examples, scores.predictions, strict=True):
        prompt = example.prompt[0]["content"]
        sums = [_log_likelihood(model, encoder.tokenizer, prompt, f" {o}") for o in example.options]
        assert found.option_log_likelihoods == pytest.approx(sums, abs=1e-4)
        right.append(example.options[sums.index(max(sums))] == example.reference)
    assert scores.items == tuple(100.0 * correct for correct in right)
    assert scores.metrics["acc"] == pytest.approx(sum(right) / 12)
    assert 0 < sum(right) < 12  # else it would prove little


def test_rows_may_be_chosen_and_the_batch_size_changes_nothing(evaluator, model):
    every, some = evaluator("epi_words").score(model), evaluator("epi_words", rows=[2, 3, 9])
    chosen = some.score(model)
    assert chosen.items == tuple(every.items[row] for row in (2, 3, 9))
    assert evaluator("epi_words", batch_size=1).score(model).items == every.items


def test_what_is_generated_is_kept_and_each_filter_has_its_metrics(evaluator, model):
    scores = evaluator("epi_writes").score(model)
    assert set(scores.metrics) == {"exact_match,first", "exact_match,word"}
    assert all(prediction.text for prediction in scores.predictions)
    longest = max(len(prediction.text) for prediction in scores.predictions)
    short = evaluator("epi_writes", max_new_tokens=1).score(model)
    assert max(len(prediction.text) for prediction in short.predictions) < longest


def test_each_row_of_a_run_is_asked_the_same(evaluator, model):
    made = evaluator("epi_words", num_fewshot=3)
    first, second = made.score(model), made.score(model)
    assert first == second
    assert first.predictions != evaluator("epi_words").score(model).predictions


def _seed():
    random.seed(5)
    numpy.random.seed(5)
    torch.manual_seed(5)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_is_touched(evaluator, model, training):
    model = copy.deepcopy(model).train(training)
    model.config.use_cache = False
    tied = []
    model.tie_weights = lambda *_, **__: tied.append(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _seed()
    expected = random.random(), numpy.random.rand(), torch.rand(1)
    _seed()
    threads = torch.get_num_threads()
    for name in ("epi_words", "epi_writes"):
        evaluator(name, num_fewshot=1).score(model)
    assert (random.random(), numpy.random.rand(), torch.rand(1)) == expected
    assert (model.training, model.config.use_cache) == (training, False)
    assert torch.get_num_threads() == threads
    assert all(value.equal(model.state_dict()[name]) for name, value in before.items())
    model.tie_weights()
    assert tied == [1]


def test_prompts_that_the_model_cannot_read_whole_are_told(evaluator, encoder, monkeypatch):
    made = evaluator("epi_words", rows=[0, 1, 2])
    lengths = sorted(
        len(encoder.tokenizer(example.prompt[0]["content"], add_special_tokens=False)["input_ids"])
        for example in made.examples
    )
    assert made.prompts_cut == 0
    monkeypatch.setattr(encoder.tokenizer, "model_max_length", lengths[0] - 1)
    made = evaluator("epi_words", rows=[0, 1, 2])
    assert made.prompts_cut == 3
    [line] = Evaluator({"lm_eval:epi_words": made}).warnings_of_prompts()
    assert "3 of 3 test prompts lose their beginning" in line
    assert f"the {lengths[0] - 1} tokens that the model reads: the harness cuts them" in line


def test_nothing_is_printed(evaluator, model, capfd):
    evaluator("epi_words").score(model)
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_a_model_without_numbers_has_failed(evaluator, model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingFailedError, match="gives no numbers on the test of task 'lm_eval"):
        evaluator("epi_words").score(model)


def test_what_fails_in_the_harness_is_one_line(evaluator, model, monkeypatch):
    made = evaluator("epi_words")
    monkeypatch.setattr(made.task.definition, "process_results", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"harness fails to score task 'lm_eval:epi_words': Zero"):
        made.score(model)
