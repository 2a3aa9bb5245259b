"""Strategies in ``transformers.Trainer``: the same training as in this package's own loop."""

from __future__ import annotations

from functools import cache
from itertools import islice

import pytest
import torch
from transformers import Trainer, TrainingArguments

from epi_bench import Strategy, UserError
from epi_bench.bridges import with_strategy
from epi_bench.model.batching import drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import toy_loop, toy_model, toy_tasks
from epi_bench.testing.toys import BATCH, LEARNING_RATE, STEPS, own_numerics

ACTING = {
    "epi": {"ratio": 0.3, "interval": 2, "warmup": 1},
    "epi_adaptive": {"longest_interval": 2, "slow": 0.9, "fast": 0.5},
    "random_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
    "inverted_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
    "ssr": {"per_task": 8},
}
"""Options with which a strategy acts within six steps; others act with their defaults."""

ALONE = {"self_output": "answers scored as the tasks score them"}
"""Strategies that work in this package's loop only, and what the refusal says."""

WORKING = [name for name in STRATEGIES.names() if name not in ALONE]

ROUNDING = 1e-5
"""How far a weight may end from the loop's where micro-batches are summed in another order."""

LENGTHS = {"ssr": ROUNDING}
"""The same where the loop cuts a step by the lengths of its examples, and the Trainer pads it."""

CHOOSING = 1e-2
"""The same where weights or tokens are chosen by rank, and rounding may change what is chosen."""


class _SameBatches(Trainer):
    """Draws what this package's loop draws, step after step."""

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        index = self._run.entered - 1
        generator = seeded_generator(f"batches of experience {max(index, 0)}", 0)
        steps = islice(drawn_steps(len(rows), BATCH, generator), STEPS)
        return [position for step in steps for position in step]


class SevenMore(Strategy):
    """Adds a constant to the loss."""

    def penalty(self, model):
        return 7.0 + 0.0 * model.model.norm.weight.sum()


def _rows(experience):
    return [
        {
            "input_ids": list(example.input_ids),
            "attention_mask": [1] * len(example),
            "labels": [
                token if supervised else -100
                for token, supervised in zip(example.input_ids, example.supervised, strict=True)
            ],
        }
        for example in experience.examples
    ]


def _arguments(folder, **settings):
    return TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": BATCH,
            "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "weight_decay": 0.01,
            "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1,
            "disable_tqdm": True, "seed": 0, **settings,
        }
    )  # fmt: skip


def _trainer(name, folder, *, options=None, model=None, base=_SameBatches, **settings):
    cls = with_strategy(base, name, **(ACTING.get(name, {}) if options is None else options))
    first = toy_tasks()[0]
    return cls(
        model=model or toy_model(),
        args=_arguments(folder, **settings),
        train_dataset=_rows(first),
        eval_dataset=_rows(first)[:4],
    )


@cache
def _loop_weights(name):
    strategy = create_strategy(name, ACTING.get(name, {}))
    with own_numerics():
        loop = toy_loop(strategy, training={"decay": "constant", "warmup_share": 0.0})
        for experience in toy_tasks():
            loop.train(experience)
        return _weights(strategy.finalize_model(loop.model))


def _trained(trainer):
    """Train both toy tasks, and give the finished weights."""
    with own_numerics():
        trainer.train()
        trainer.train_dataset = _rows(toy_tasks()[1])
        trainer.train()
        return _weights(trainer.finalize_model())


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _distance(first, second):
    assert first.keys() == second.keys()
    return max(
        (float((t - second[name]).abs().max()) for name, t in first.items() if t.numel()),
        default=0.0,
    )


@pytest.mark.parametrize("name", WORKING)
def test_a_strategy_trains_as_in_the_loop(name, tmp_path):
    trainer = _trainer(name, tmp_path)
    weights = _trained(trainer)
    assert _distance(weights, _loop_weights(name)) <= LENGTHS.get(name, 0)
    if name == "agem":  # the toy tasks do not conflict, but their gradients are compared
        assert trainer.strategy.diagnostics()["projected_steps"] == 0
    elif name != "full_sft":
        assert _distance(weights, _loop_weights("full_sft")) > 1e-5, "the strategy did not act"


@pytest.mark.parametrize("name", WORKING)
def test_micro_batches_and_resuming(name, tmp_path):
    """Micro-batches are summed in another order, so rounding differs, and Adam enlarges it where a
    gradient is all but zero; a training that is resumed is the same to the last bit."""
    settings = {
        "per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2,
        "save_strategy": "steps", "save_steps": 2, "save_only_model": False,
    }  # fmt: skip
    first = _trainer(name, tmp_path, **settings)
    weights = _trained(first)
    allowed = CHOOSING if name in ("mofo", "migu", "sift", "stm") else ROUNDING
    assert _distance(weights, _loop_weights(name)) < allowed
    again = _trainer(name, tmp_path, **settings)
    with own_numerics():
        again.train_dataset = _rows(toy_tasks()[1])
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        resumed = _weights(again.finalize_model())
    assert _distance(resumed, weights) == 0
    assert again.strategy.diagnostics() == first.strategy.diagnostics()


BEST = {
    "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
    "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
}  # fmt: skip
"""The worst is loaded back: the first step's, which is not the last."""


@pytest.mark.parametrize("name", ["epi", "ewc", "epi_similarity", "ema", "si", "inc_lora"])
def test_the_best_model_comes_back_with_its_state(name, tmp_path):
    """As if training had ended where the best model was saved."""
    ended = {}
    for steps, settings in ((1, {}), (STEPS, BEST)):
        trainer = _trainer(name, tmp_path / str(steps), max_steps=steps, **settings)
        with own_numerics():
            trainer.train()
        ended[steps] = _weights(trainer.model), trainer.strategy.state_dict(), trainer
    assert ended[STEPS][2].state.best_global_step == 1
    assert _distance(ended[1][0], ended[STEPS][0]) == 0
    assert _distance(ended[1][1], ended[STEPS][1]) == 0


def test_statistics_reach_the_log_and_tensorboard(tmp_path, monkeypatch):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = _trainer(SevenMore, tmp_path, report_to=["tensorboard"])
    trainer.train()
    (file,) = (tmp_path / "events").rglob("events*")
    events = accumulator(str(file)).Reload()
    told = [event.value for event in events.Scalars("train/strategy_penalty")]
    assert told == [7.0] * STEPS


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_logged_loss_is_that_of_the_tokens(accumulation, tmp_path):
    settings = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": BATCH // accumulation,
    }
    losses = []
    for name in (SevenMore, "full_sft"):
        trainer = _trainer(name, tmp_path, **settings)
        with own_numerics():
            trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses.append([entry["loss"] for entry in entries])
        told = [entry.get("strategy_penalty") for entry in entries]
        assert told == ([7.0] * STEPS if name is SevenMore else [None] * STEPS)
    assert losses[0] == losses[1]


def test_experiences_by_hand_are_those_that_train_begins_by_itself(tmp_path):
    first, second = toy_tasks()
    trainer = _trainer("epi_similarity", tmp_path)
    with own_numerics():
        trainer.begin_experience("first", _rows(first))
        with pytest.raises(UserError, match="'first' has not ended: call end_experience"):
            trainer.begin_experience("second", _rows(second))
        trainer.train()
        trainer.end_experience()
        trainer.begin_experience("second", _rows(second))
        trainer.train()
        trainer.end_experience()
    assert _distance(_weights(trainer.model), _loop_weights("epi_similarity")) == 0
    with pytest.raises(UserError, match="no experience has been trained"):
        trainer.end_experience()
    trainer.finalize_model()
    with pytest.raises(UserError, match="has ended the training"):
        trainer.train()


def test_a_stream_goes_on_in_another_process(tmp_path):
    _, second = toy_tasks()
    one = _trainer("epi_similarity", tmp_path)
    with own_numerics():
        one.train()
        one.save_strategy(tmp_path / "after_first")
        two = _trainer("epi_similarity", tmp_path, model=one.model)
        two.load_strategy(tmp_path / "after_first")
        two.train_dataset = _rows(second)
        two.train()
    assert _distance(_weights(two.model), _loop_weights("epi_similarity")) == 0


def test_a_checkpoint_without_the_strategys_state_is_refused(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    _trainer("ewc", tmp_path, **saving).train()
    folder = tmp_path / "checkpoint-2"
    for name, options, message in (
        ("epi_similarity", {}, "the state of strategy 'ewc', and this one is 'epi_similarity'"),
        ("ewc", {"strength": 5.0}, r"trained with strength=10000.0, and now has strength=5.0"),
    ):
        with pytest.raises(UserError, match=message):
            _trainer(name, tmp_path, options=options).train(str(folder))
    (folder / "strategy.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="the strategy's state is damaged"):
        _trainer("ewc", tmp_path).train(str(folder))
    (folder / "strategy.json").unlink()
    with pytest.raises(UserError, match=r"has no strategy.json: it was saved without a strategy"):
        _trainer("ewc", tmp_path).train(str(folder))
    with pytest.raises(UserError, match="there is no checkpoint in"):
        _trainer("ewc", tmp_path / "nothing").train(resume_from_checkpoint=True)


def test_what_is_not_supported_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="did you mean 'epi_similarity'"):
        with_strategy(Trainer, "epi_similarty")
    with pytest.raises(UserError, match="unknown option of strategy 'ewc' 'strenth'"):
        with_strategy(Trainer, "ewc", strenth=1.0)
    with pytest.raises(UserError, match="give model instead of model_init"):
        with_strategy(Trainer, "ewc")(model_init=lambda: toy_model(), args=_arguments(tmp_path))


def test_a_step_with_infinite_gradients_is_left_out(tmp_path):
    trainer = _trainer("epi", tmp_path, max_steps=2)
    whole = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: (
        whole(*args, **kwargs) * (float("inf") if trainer.state.global_step == 1 else 1)
    )
    once = _trainer("epi", tmp_path, max_steps=1)
    with own_numerics():
        trainer.train()
        once.train()
    assert trainer.state.log_history[1]["strategy_skipped_steps"] == 1
    assert _distance(_weights(trainer.model), _weights(once.model)) == 0


@pytest.mark.parametrize(("name", "message"), ALONE.items())
def test_what_needs_the_tasks_scoring_is_refused_before_a_step(name, message, tmp_path):
    trainer = _trainer(name, tmp_path)
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


class LooksAtLogits(Strategy):
    """Has a hook that needs logits with their graph, and changes nothing."""

    def batch_penalty(self, batch, logits):
        assert logits.requires_grad
        return 0.0 * logits.sum()


def _conversations(words):
    from datasets import Dataset

    rows = [
        [{"role": "user", "content": f"copy {word}"}, {"role": "assistant", "content": word}]
        for word in words
    ]
    return Dataset.from_list([{"messages": row} for row in rows * 2])


@pytest.mark.parametrize("name", ["full_sft", "ewc", "epi", "stm", LooksAtLogits])
def test_supervised_fine_tuning_with_trl(name, toy_model, tmp_path):
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def trainer(base):
        settings = {
            "output_dir": str(tmp_path), "max_steps": 2, "per_device_train_batch_size": 2,
            "learning_rate": 1e-3, "use_cpu": True, "bf16": False, "report_to": [],
            "gradient_checkpointing": False, "save_strategy": "no", "logging_steps": 1,
            "disable_tqdm": True, "assistant_only_loss": True, "max_length": 64,
        }  # fmt: skip
        return base(
            model=AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32),
            args=trl.SFTConfig(**settings),
            train_dataset=_conversations(["red", "green", "blue"]),
            processing_class=AutoTokenizer.from_pretrained(toy_model),
        )

    plain = trainer(trl.SFTTrainer)
    ours = trainer(with_strategy(trl.SFTTrainer, name, **ACTING.get(name, {})))
    with own_numerics():
        ours.train()
        if name in ("full_sft", "ewc", LooksAtLogits):
            plain.train()
            assert _distance(_weights(ours.model), _weights(plain.model)) < ROUNDING
        ours.begin_experience("second", _conversations(["one", "two", "three"]))
        ours.train()
        ours.end_experience()
    entries = [entry for entry in ours.state.log_history if "loss" in entry]
    if name == "ewc":
        assert entries[-1]["strategy_penalty"] > 0
    elif name == "epi":
        assert entries[-1]["strategy_achieved_ratio"] == pytest.approx(0.3, rel=1e-2)
    elif name == "stm":
        assert entries[-1]["strategy_masked_tokens"] > 0
