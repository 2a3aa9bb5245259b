"""Strategies that protect the base model from the first step on, in loops that are not ours."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import epi_bench
from epi_bench import UserError
from epi_bench.bridges import with_strategy
from epi_bench.model.base_examples import BaseExamples
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing import toy_tasks
from epi_bench.testing.toys import own_numerics

PROTECTING = {
    "ewc": {"strength": 1e6, "fisher_samples": 2},
    "mas": {"strength": 1e3, "samples": 2},
    "epi_consolidated": {"penalty": 1e4, "fisher_samples": 2},
    "epi_similarity": {"penalty": 1e4, "sharpness": 0.0, "fisher_samples": 2},
    "forgetting_price": {"price": 100.0, "fisher_samples": 2},
    "static_mask": {"ratio": 0.9},
    "epi": {"ratio": 0.9, "warmup": 100},
}

TEXTS = ["red green blue one two three copy the word", "one red word, two green words"]


@pytest.fixture(scope="module")
def tokenizer(toy_model):
    return AutoTokenizer.from_pretrained(toy_model)


LONGEST = 8
"""Tokens of the longest text that the model reads: short ones are written quickly."""


@pytest.fixture
def model(toy_model):
    settings = {"dtype": torch.float32, "max_position_embeddings": LONGEST}
    return lambda: AutoModelForCausalLM.from_pretrained(toy_model, **settings)


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch):
    monkeypatch.setattr("epi_bench.strategy.isolation_strategy.BASE_EXAMPLES", 8)


def _texts_in(folder):
    path = folder / "general.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PROTECTING)
def test_a_trainer_protects_the_base_as_the_loop_does(name, toys, model, tokenizer, tmp_path):
    options = {**PROTECTING[name], "protect_base": "self"}
    weights = toys.trained(_trainer(toys, name, options, model(), tokenizer, tmp_path))
    assert toys.distance(weights, _loop_weights(toys, name, options, model(), tokenizer)) == 0


@pytest.mark.parametrize("kind", ["general_text", "a file as general_text", "a file"])
def test_so_it_does_with_given_texts(kind, toys, model, tokenizer, tmp_path):
    path = _texts_in(tmp_path)
    options = {**PROTECTING["ewc"], "protect_base": "general_text"}
    given, texts = TEXTS, TEXTS
    if kind == "a file as general_text":
        given, texts = path, [path.read_text(encoding="utf-8")]
    elif kind == "a file":
        given, options = None, {**options, "protect_base": str(path)}
    trainer = _trainer(toys, "ewc", options, model(), tokenizer, tmp_path, given)
    loop_weights = _loop_weights(toys, "ewc", options, model(), tokenizer, texts)
    assert toys.distance(toys.trained(trainer), loop_weights) == 0


def _trainer(toys, name, options, model, tokenizer, folder, general_text=None):
    given = {"processing_class": tokenizer, "general_text": general_text}
    return toys.trainer(name, folder, options=options, model=model, given=given)


def _loop_weights(toys, name, options, model, tokenizer, texts=()):
    strategy = create_strategy(name, options)
    with own_numerics():
        loop = toys.loop(strategy, model=model)
        loop.context.base_texts = BaseExamples(tokenizer, lambda: texts, max_length=LONGEST)
        for experience in toy_tasks():
            loop.train(experience)
    return toys.weights(strategy.finalize_model(loop.model))


def test_the_base_is_not_measured_again_by_a_training_that_is_resumed(
    toys, model, tokenizer, tmp_path
):
    options = {**PROTECTING["ewc"], "protect_base": "self"}
    given = {"processing_class": tokenizer}
    settings = {"save_strategy": "steps", "save_steps": 2, "options": options, "given": given}
    first = toys.trainer("ewc", tmp_path, model=model(), **settings)
    again = toys.trainer("ewc", tmp_path, model=model(), **settings)
    with own_numerics():
        first.train()
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert toys.distance(toys.weights(again.model), toys.weights(first.model)) == 0
    assert toys.distance(again.strategy.state_dict(), first.strategy.state_dict()) == 0


def test_what_protecting_the_base_needs_is_asked_for_before_anything_is_trained(
    toys, model, tokenizer, tmp_path
):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n", encoding="utf-8")
    for source, general_text, message in (
        ("general_text", None, "'ewc' measures the base model on general text, and none is given"),
        ("general_text", "nowhere.txt", r"general_text='nowhere.txt' is no text file: give the"),
        ("general_text", "a text " * 99, "is no text file: give the path of one, or a list"),
        ("general_text", [1], "general_text holds a int: give a list of texts"),
        ("general_text", [" "], "general_text has no text in it"),
        ("general_text", empty, "empty.txt is empty: write some text into it"),
        ("none", TEXTS, r"does not read general_text with protect_base='none': set protect_base="),
        ("generl_text", None, r"is no text file: .*did you mean general_text\?"),
    ):
        options = {"protect_base": source}
        with pytest.raises(UserError, match=message):
            _trainer(toys, "ewc", options, model(), tokenizer, tmp_path, general_text)
    with pytest.raises(UserError, match="needs the tokenizer: give processing_class=tokenizer"):
        _trainer(toys, "ewc", {"protect_base": "self"}, model(), None, tmp_path)
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    with pytest.raises(UserError, match=r"needs the tokenizer: give protect\(..., tokenizer="):
        epi_bench.protect(optimizer, trained, strategy="ewc", protect_base="self")


def test_a_single_training_that_is_plain_fine_tuning_is_warned_of(toys, tmp_path):
    with pytest.warns(UserWarning, match=r"acts from experience 2 on.*protect_base='self' prot"):
        toys.trainer("ewc", tmp_path).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        toys.trainer("ema", tmp_path).train()


def test_an_optimizer_that_is_given_must_do_what_the_strategy_asks(toys, tmp_path):
    trained = toys.trainer("full_sft", tmp_path).model
    optimizers = (torch.optim.AdamW(trained.parameters()), None)
    for name, message in (
        ("low_learning_rate", "changes the learning rate, and the optimizer that you give has"),
        ("lora", "trains base_model.*lora_A.*, which the optimizer that you give does not know"),
    ):
        with pytest.raises(UserError, match=message):
            toys.trainer(name, tmp_path, model=trained, given={"optimizers": optimizers})


def test_a_model_is_scored_before_it_is_trained(toys, tmp_path):
    before = toys.trainer("ema", tmp_path)
    assert (
        before.evaluate()["eval_loss"] == toys.trainer("full_sft", tmp_path).evaluate()["eval_loss"]
    )


def test_the_option_of_a_strategy_is_checked_when_the_class_is_made():
    from transformers import Trainer

    with pytest.raises(UserError, match="unknown option of strategy 'si' 'protect_base'"):
        with_strategy(Trainer, "si", protect_base="self")
