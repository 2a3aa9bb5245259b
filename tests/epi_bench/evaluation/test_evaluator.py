"""Scoring: modes, batch size, untrained models."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from transformers import GenerationConfig

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.evaluation.evaluator import Evaluator, TaskEvaluator
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.losses import mean_loss
from epi_bench.task.example import Example, Prediction
from epi_bench.task.task import TASKS


@pytest.fixture(scope="module")
def learned(model, encoder, toy_tasks):
    """The toy model, trained until it answers some questions right and others wrong."""
    from epi_bench.model.batching import collate

    trained = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trained.parameters(), 5e-3)
    names = ["toy_first", "toy_second", "toy_choice"]
    examples = [e for name in names for e in TASKS.get(name)().examples("test")][::2]
    batch = collate([encoder.encode(e.messages) for e in examples], 0)
    for _ in range(120):
        mean_loss(trained, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return trained.eval()


def _evaluator(name, encoder, batch_size, count=None):
    task = TASKS.get(name)()
    return TaskEvaluator(task, task.examples("test")[:count], encoder, batch_size)


@pytest.mark.parametrize("name", ["toy_first", "toy_second", "toy_choice"])
def test_a_batch_of_one_and_a_batch_of_many_score_the_same(name, encoder, learned):
    one, many = (_evaluator(name, encoder, size).score(learned) for size in (1, 5))
    assert one.items == many.items
    assert 0 < one.mean < 100  # some right, some wrong: otherwise this would prove nothing
    assert one.metrics == pytest.approx(many.metrics, rel=1e-4)


@pytest.mark.parametrize("name", ["toy_first", "toy_choice"])
def test_a_model_that_gives_no_numbers_has_no_score(name, model, encoder):
    diverged = copy.deepcopy(model)
    with torch.no_grad():
        diverged.lm_head.weight.fill_(math.nan)
    with pytest.raises(TrainingFailedError, match=f"test of task '{name}'.*diverged"):
        _evaluator(name, encoder, 4).score(diverged)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"acc": math.nan}, "gives acc = nan for test example 1"),
        ({"acc": 1.0, "more": math.inf}, "gives more = inf for test example 1"),
        ({"accuracy": 1.0}, "gives no 'acc', its primary metric, for test example 1, but accuracy"),
        ({}, "but nothing"),
    ],
)
def test_a_score_that_is_no_number_is_refused(result, message, encoder):
    evaluator = _evaluator("toy_choice", encoder, 4, count=1)
    evaluator.task.score = lambda example, prediction: result
    with pytest.raises(UserError, match=message):
        evaluator.score_predictions([Prediction()])


def test_teacher_forced_exact_match_is_greedy_exact_match(encoder, learned):
    task = TASKS.get("toy_first")()
    examples = task.examples("test")
    forced = TaskEvaluator(task, examples, encoder, 8).score(learned)

    generating = type(task)()
    generating.card = dataclasses.replace(
        task.card, scoring="generate", metric="exact", max_new_tokens=10
    )
    generating.score = lambda example, prediction: {
        "exact": float(prediction.text == example.reference)
    }
    generated = TaskEvaluator(generating, examples, encoder, 8).score(learned)
    assert forced.items == generated.items


def test_choice_by_one_forward_pass_equals_choice_by_whole_sequences(encoder, learned):
    evaluator = _evaluator("toy_choice", encoder, 4)
    predictions = evaluator.predict(learned)
    for options, prediction in zip(evaluator._options, predictions, strict=True):
        for option, found in zip(options, prediction.option_log_likelihoods, strict=True):
            ids = torch.tensor(option.input_ids)[None]
            with torch.no_grad():
                logits = learned(ids).logits.log_softmax(-1)
            wanted = sum(
                logits[0, i - 1, token].item()
                for i, (token, s) in enumerate(
                    zip(option.input_ids, option.supervised, strict=True)
                )
                if s
            )
            assert found == pytest.approx(wanted, abs=1e-4)


def test_scoring_leaves_model_and_mode_alone(model, encoder, toy_tasks):
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.train()
    _evaluator("toy_second", encoder, 4, 4).score(model)
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_predictions_alone_give_the_scores_with_an_error_for_every_metric(encoder, toy_tasks):
    evaluator = _evaluator("toy_first", encoder, 4, 4)
    predictions = [
        Prediction(correct_tokens=correct, reference_negative_log_likelihood=loss)
        for correct, loss in [((True, True), 1.0), ((True, False), 2.0), ((False,), 3.0)]
    ]
    predictions.append(Prediction(correct_tokens=(True,)))  # its loss was not measured
    scores = evaluator.score_predictions(predictions)
    assert scores.items == (100.0, 0.0, 0.0, 100.0)
    assert scores.metrics == {
        "exact_match": 0.5, "token_accuracy": 0.625, "reference_negative_log_likelihood": 2.0,
    }  # fmt: skip
    # Sample variances 1/3, 11/48 (of 1, 0.5, 0, 1) and 1; divided by 4, 4 and 3 items.
    assert scores.metric_errors == pytest.approx(
        {
            "exact_match": (1 / 12) ** 0.5,
            "token_accuracy": (11 / 192) ** 0.5,
            "reference_negative_log_likelihood": (1 / 3) ** 0.5,
        }
    )
    assert scores.predictions == tuple(predictions)
    assert [result["token_accuracy"] for result in scores.results] == [1.0, 0.5, 0.0, 1.0]
    assert scores.without_predictions().predictions == ()
    assert scores.without_predictions().metrics == scores.metrics


def test_accuracy_is_normalised_by_characters_not_by_bytes_or_tokens(toy_tasks):
    options = ("no", "ééé", "maybe")  # 2, 3 and 5 characters; 2, 6 and 5 bytes
    sums = (-3.0, -4.2, -7.5)  # a character: -1.5, -1.4, -1.5; a byte: -1.5, -0.7, -1.5
    example = Example((), "ééé", options)
    task = TASKS.get("toy_choice")()
    found = task.score(example, Prediction(option_log_likelihoods=sums))
    assert found == {"acc": 0.0, "acc_norm": 1.0}
    sums = (-2.8, -4.5, -7.4)  # a character: -1.4, -1.5, -1.48; a byte would choose the second
    found = task.score(example, Prediction(option_log_likelihoods=sums))
    assert found == {"acc": 0.0, "acc_norm": 0.0}


def test_the_reference_loss_may_be_left_out_where_text_is_generated(encoder, learned):
    task = TASKS.get("toy_second")()
    examples = task.examples("test")[:3]
    full = TaskEvaluator(task, examples, encoder, 4).predict(learned)
    lean = TaskEvaluator(task, examples, encoder, 4, reference_loss=False).predict(learned)
    assert [p.text for p in lean] == [p.text for p in full]
    assert all(p.reference_negative_log_likelihood is None for p in lean)
    assert all(p.reference_negative_log_likelihood > 0 for p in full)


def test_a_shorter_limit_cuts_answers_and_a_longer_one_changes_nothing(encoder, learned):
    task = TASKS.get("toy_second")()
    examples = task.examples("test")[:3]
    texts = {
        limit: [
            p.text
            for p in TaskEvaluator(task, examples, encoder, 4, max_new_tokens=limit).predict(
                learned
            )
        ]
        for limit in (None, 1, 10_000)
    }
    assert texts[10_000] == texts[None]
    for short, full in zip(texts[1], texts[None], strict=True):
        assert full.startswith(short)
        assert len(encoder.tokenizer(short, add_special_tokens=False)["input_ids"]) <= 1
    assert texts[1] != texts[None]


def _spoken(encoder, learned, **settings):
    """Predictions of the learned model under other generation settings."""
    task = TASKS.get("toy_second")()
    kept = learned.generation_config
    learned.generation_config = GenerationConfig(**settings)
    try:
        evaluator = TaskEvaluator(task, task.examples("test"), encoder, 4)
        return evaluator.predict(learned)
    finally:
        learned.generation_config = kept


@pytest.mark.parametrize("plain", [True, False])
def test_stop_strings_of_the_models_settings_end_answers(encoder, learned, plain):
    settings = {} if plain else {"no_repeat_ngram_size": 50}  # goes through transformers
    whole = _spoken(encoder, learned, **settings)
    cut = _spoken(encoder, learned, stop_strings=["ee", "l"], **settings)
    for short, full in zip(cut, whole, strict=True):
        ends = [at for ending in ("ee", "l") if (at := full.text.find(ending)) >= 0]
        assert short.text == full.text[: min(ends, default=len(full.text))]
        assert not (ends and short.is_cut)
    assert {p.text for p in cut} != {p.text for p in whole}


def test_further_ends_of_sequence_of_the_models_settings_end_answers(encoder, learned):
    token = encoder.tokenizer.encode("blue", add_special_tokens=False)[-1]
    whole = _spoken(encoder, learned)
    cut = _spoken(encoder, learned, eos_token_id=[encoder.tokenizer.eos_token_id, token])
    assert [p.text for p in cut] != [p.text for p in whole]
    decode = encoder.tokenizer.decode
    assert all(decode([token]) not in p.text for p in cut)


def test_answers_that_had_not_ended_are_counted(encoder, learned):
    task = TASKS.get("toy_second")()
    examples = task.examples("test")
    full = TaskEvaluator(task, examples, encoder, 4).score(learned)
    ends = [
        len(encoder.tokenizer.encode(p.text, add_special_tokens=False)) for p in full.predictions
    ]
    short = TaskEvaluator(task, examples, encoder, 4, max_new_tokens=1).score(learned)
    assert short.answers_cut == sum(length >= 1 for length in ends) > 0
    assert full.answers_cut == sum(length >= 6 for length in ends) < len(examples)
    evaluator = Evaluator(
        {"toy_second": TaskEvaluator(task, examples, encoder, 4, max_new_tokens=1)}
    )
    (line,) = evaluator.warnings_of_answers({"toy_second": short})
    assert f"{short.answers_cut} of {len(examples)} answers had not ended after 1 tokens" in line
    assert (
        evaluator.warnings_of_answers({"toy_second": dataclasses.replace(short, answers_cut=0)})
        == []
    )


@pytest.mark.parametrize("name", ["toy_first", "toy_second", "toy_choice"])
def test_prompts_that_are_too_long_are_counted(name, encoder):
    task = TASKS.get(name)()
    examples = task.examples("test")
    lengths = [len(encoder.scoring(e.messages)) for e in examples]
    if name == "toy_second":  # an answer is generated from a prompt that fits, whatever follows it
        lengths = [len(encoder.prompt(e.messages)) for e in examples]
    if name == "toy_choice":
        lengths = [max(map(len, encoder.options(e.prompt, e.options))) for e in examples]
    limit = sorted(lengths)[len(lengths) // 2]
    short = ChatEncoder(encoder.tokenizer, limit)
    evaluator = Evaluator({name: TaskEvaluator(task, examples, short, 4)})
    expected = sum(length > limit for length in lengths)
    assert evaluator.prompts_cut == {name: expected}
    assert Evaluator({name: TaskEvaluator(task, examples, encoder, 4)}).warnings_of_prompts() == []
    if expected:
        (line,) = evaluator.warnings_of_prompts()
        assert (
            f"{expected} of {len(examples)} test prompts" in line
            and "raise data.max_length" in line
        )


def test_an_answers_prompt_does_not_depend_on_the_reference(encoder):
    task = TASKS.get("toy_second")()
    short = ChatEncoder(encoder.tokenizer, 24)
    prompts = []
    for answer in ("red", "red " * 40):
        messages = (
            {"role": "user", "content": "second: red green"},
            {"role": "assistant", "content": answer},
        )
        (prompt,) = TaskEvaluator(task, [Example(messages, answer)], short, 1)._prompts
        prompts.append(prompt.input_ids)
    assert prompts[0] == prompts[1] == encoder.prompt(messages).input_ids[-24:]


def test_what_is_known_is_not_scored_again():
    from epi_bench.evaluation.scores import TaskScores

    scored = []

    class One:
        def __init__(self, name):
            self.name = name

        def score(self, model):
            scored.append(self.name)
            return TaskScores((1.0,), {})

    evaluator = Evaluator({name: One(name) for name in "abc"})
    known = TaskScores((7.0,), {})
    told = []
    found = evaluator.score(None, {"b": known}, lambda name, scores: told.append((name, scores)))
    assert scored == ["a", "c"]
    assert told == [("a", found["a"]), ("c", found["c"])]
    assert list(found) == ["a", "b", "c"]
    assert found["b"] is known


def test_an_answer_that_would_take_all_memory_is_refused_with_its_row(toy_model, toy_tasks):
    from transformers import AutoTokenizer

    from epi_bench.evaluation.evaluator import LONGEST_ANSWER
    from epi_bench.model.chat.chat_encoder import ChatEncoder
    from epi_bench.task.example import Example, ask
    from epi_bench.task.task import TASKS

    encoder = ChatEncoder(AutoTokenizer.from_pretrained(toy_model), max_length=64)
    examples = [Example(ask("q", "a"), "a"), Example(ask("q", "~" * (LONGEST_ANSWER + 9)), "~")]
    with pytest.raises(UserError, match="'toy_first': the answer of test example 2 has 16,3"):
        TaskEvaluator(TASKS.get("toy_first")(), examples, encoder, batch_size=2)
