"""Strategies in ``transformers.Trainer``: the same training as in this package's own loop."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer

import epi_bench
from epi_bench import Strategy, UserError
from epi_bench.bridges import with_strategy
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import toy_model, toy_tasks
from epi_bench.testing.toys import BATCH, STEPS, own_numerics

ROUNDING = 1e-5
"""How far a weight may end where the same logits are computed in another way."""


LENGTHS = {"ssr": ROUNDING}
"""How far where the loop cuts a step by the lengths of its examples, and the Trainer pads it."""


class SevenMore(Strategy):
    """Adds a constant to the loss."""

    def penalty(self, model):
        return 7.0 + 0.0 * model.model.norm.weight.sum()


OWN_LOOP = [n for n in STRATEGIES.names() if "own loop" in STRATEGIES.get(n).needs]
ALONE = {"self_output": "answers scored as the tasks score them"}
"""Strategies that work in this package's loop only, and what the refusal says."""

WORKING = [name for name in STRATEGIES.names() if name not in (*OWN_LOOP, *ALONE)]


OF_AVALANCHE = ("avalanche:EWCPlugin", "avalanche:MASPlugin")


@pytest.mark.parametrize("name", [*WORKING, *OF_AVALANCHE])
def test_a_strategy_trains_as_in_the_loop(name, toys, tmp_path):
    """With the same micro-batches; whoever resumes in the second task ends at the same weights."""
    micro_batches = {
        "per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    saving = {"save_strategy": "steps", "save_steps": 2}
    of_the_loop = toys.loop_weights(name, batch_size=BATCH // 2, accumulation=2)
    plain = toys.loop_weights("full_sft", batch_size=BATCH // 2, accumulation=2)
    first = toys.trainer(name, tmp_path, **micro_batches, **saving)
    weights = toys.trained(first)
    assert toys.distance(weights, of_the_loop) <= LENGTHS.get(name, 0)
    if name == "agem":  # the toy tasks do not conflict, but their gradients are compared
        assert first.strategy.diagnostics()["projected_steps"] == 0
    elif name != "full_sft":
        assert toys.distance(weights, plain) > 1e-5, "the strategy did not act"
    again = toys.trainer(name, tmp_path, **micro_batches)
    with own_numerics():
        again.train_dataset = toys.rows(toy_tasks()[1])
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        resumed = toys.weights(again.finalize_model())
    assert toys.distance(resumed, weights) == 0
    assert again.strategy.diagnostics() == first.strategy.diagnostics()


@pytest.mark.parametrize("name", OWN_LOOP)
def test_a_strategy_that_needs_its_own_loop_is_refused_in_one_line(name):
    model = toy_model()
    optimizer = torch.optim.AdamW(model.parameters())
    for refused in (
        lambda: with_strategy(Trainer, name),
        lambda: epi_bench.protect(optimizer, model, strategy=name),
    ):
        with pytest.raises(UserError, match=f"^strategy '{name}' .*: train with epi-bench run"):
            refused()


@pytest.mark.parametrize(("name", "message"), ALONE.items())
def test_what_needs_the_tasks_scoring_is_refused_before_a_step(name, message, toys, tmp_path):
    trainer = toys.trainer(name, tmp_path)
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


EARLY = {"check_every": 1, "patience": 1, "tolerance": 0.9}
"""Of three steps the second keeps nothing, so that the weights are those after the first."""


def test_a_strategy_ends_an_experience_early(toys, tmp_path):
    trainer = toys.trainer("early_stop", tmp_path, options=EARLY)
    with own_numerics():
        trainer.train()
        loop = toys.loop(create_strategy("early_stop", EARLY))
        loop.train(toy_tasks()[0])
    assert trainer.state.global_step == 2
    assert loop.cost.steps_made == {"0": 2}
    assert toys.distance(toys.weights(trainer.model), toys.weights(loop.model)) == 0


def test_an_experience_that_the_strategy_ended_is_not_resumed(toys, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_only_model": False}
    trainer = toys.trainer("early_stop", tmp_path, options=EARLY, **settings)
    with own_numerics():
        trainer.train()
        ended = toys.weights(trainer.model)
        again = toys.trainer("early_stop", tmp_path, options=EARLY, **settings)
        with pytest.raises(UserError, match="there is nothing left to train in it"):
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        third = toys.trainer("early_stop", tmp_path, options=EARLY, **settings)
        third.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert toys.distance(toys.weights(third.model), ended) == 0


ONE_OF_A_KIND = {
    "full_sft": "nothing",
    "low_learning_rate": "another learning rate",
    "lora": "new weights",
    "epi": "the update",
    "agem": "the gradient",
    "ewc": "the loss, by a penalty",
    "kl_to_base": "the loss, by the logits",
    "talr": "the loss, by weights of tokens",
    "flow": "the loss, by weights of examples",
    "replay": "the examples",
    "ema": "the finished weights",
}
"""What a strategy changes. How a step is cut has nothing else to do with the strategy."""


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_so_it_does_with_a_step_in_one_piece(name, toys, tmp_path):
    weights = toys.trained(toys.trainer(name, tmp_path))
    assert toys.distance(weights, toys.loop_weights(name)) == 0


BEST = {
    "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
    "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
}  # fmt: skip
"""The worst is loaded back: the first step's, which is not the last."""


@pytest.mark.parametrize("name", ["epi", "ewc", "epi_similarity", "ema", "si", "inc_lora"])
def test_the_best_model_comes_back_with_its_state(name, toys, tmp_path):
    """As if training had ended where the best model was saved."""
    ended = {}
    for steps, settings in ((1, {}), (STEPS, BEST)):
        trainer = toys.trainer(name, tmp_path / str(steps), max_steps=steps, **settings)
        with own_numerics():
            trainer.train()
        ended[steps] = toys.weights(trainer.model), trainer.strategy.state_dict(), trainer
    assert ended[STEPS][2].state.best_global_step == 1
    assert toys.distance(ended[1][0], ended[STEPS][0]) == 0
    assert toys.distance(ended[1][1], ended[STEPS][1]) == 0


def test_statistics_reach_the_log_and_tensorboard(monkeypatch, toys, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = toys.trainer(SevenMore, tmp_path, report_to=["tensorboard"])
    trainer.train()
    (file,) = (tmp_path / "events").rglob("events*")
    events = accumulator(str(file)).Reload()
    told = [event.value for event in events.Scalars("train/strategy_penalty")]
    assert told == [7.0] * STEPS


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_logged_loss_is_that_of_the_tokens(accumulation, toys, tmp_path):
    settings = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": BATCH // accumulation,
    }
    losses = []
    for name in (SevenMore, "full_sft"):
        trainer = toys.trainer(name, tmp_path, **settings)
        with own_numerics():
            trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses.append([entry["loss"] for entry in entries])
        told = [entry.get("strategy_penalty") for entry in entries]
        assert told == ([7.0] * STEPS if name is SevenMore else [None] * STEPS)
    assert losses[0] == losses[1]


def test_experiences_by_hand_are_those_that_train_begins_by_itself(toys, tmp_path):
    first, second = toy_tasks()
    trainer = toys.trainer("epi_similarity", tmp_path)
    with own_numerics():
        trainer.begin_experience("first", toys.rows(first))
        with pytest.raises(UserError, match="'first' has not ended: call end_experience"):
            trainer.begin_experience("second", toys.rows(second))
        trainer.train()
        trainer.end_experience()
        trainer.begin_experience("second", toys.rows(second))
        trainer.train()
        trainer.end_experience()
    assert toys.distance(toys.weights(trainer.model), toys.loop_weights("epi_similarity")) == 0
    with pytest.raises(UserError, match="no experience has been trained"):
        trainer.end_experience()
    trainer.finalize_model()
    with pytest.raises(UserError, match="has ended the training"):
        trainer.train()


def test_a_stream_goes_on_in_another_process(toys, tmp_path):
    _, second = toy_tasks()
    one = toys.trainer("epi_similarity", tmp_path)
    with own_numerics():
        one.train()
        one.save_strategy(tmp_path / "after_first")
        two = toys.trainer("epi_similarity", tmp_path, model=one.model)
        two.load_strategy(tmp_path / "after_first")
        two.train_dataset = toys.rows(second)
        two.train()
    assert toys.distance(toys.weights(two.model), toys.loop_weights("epi_similarity")) == 0


def test_a_checkpoint_without_the_strategys_state_is_refused(toys, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    toys.trainer("ewc", tmp_path, **saving).train()
    folder = tmp_path / "checkpoint-2"
    for name, options, message in (
        ("epi_similarity", {}, "the state of strategy 'ewc', and this one is 'epi_similarity'"),
        ("ewc", {"strength": 5.0}, r"trained with strength=10000.0, and now has strength=5.0"),
    ):
        with pytest.raises(UserError, match=message):
            toys.trainer(name, tmp_path, options=options).train(str(folder))
    (folder / "strategy.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="the strategy's state is damaged"):
        toys.trainer("ewc", tmp_path).train(str(folder))
    (folder / "strategy.json").unlink()
    with pytest.raises(UserError, match=r"has no strategy.json: it was saved without a strategy"):
        toys.trainer("ewc", tmp_path).train(str(folder))
    with pytest.raises(UserError, match="there is no checkpoint in"):
        toys.trainer("ewc", tmp_path / "nothing").train(resume_from_checkpoint=True)


def test_what_is_not_supported_is_refused_at_once(toys, tmp_path):
    with pytest.raises(UserError, match="did you mean 'epi_similarity'"):
        with_strategy(Trainer, "epi_similarty")
    with pytest.raises(UserError, match="unknown option of strategy 'ewc' 'strenth'"):
        with_strategy(Trainer, "ewc", strenth=1.0)
    with pytest.raises(UserError, match="give model instead of model_init"):
        with_strategy(Trainer, "ewc")(model_init=lambda: toy_model(), args=toys.arguments(tmp_path))


def test_a_step_with_infinite_gradients_is_left_out(toys, tmp_path):
    trainer = toys.trainer("epi", tmp_path, max_steps=2)
    whole = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: (
        whole(*args, **kwargs) * (float("inf") if trainer.state.global_step == 1 else 1)
    )
    once = toys.trainer("epi", tmp_path, max_steps=1)
    with own_numerics():
        trainer.train()
        once.train()
    assert trainer.state.log_history[1]["strategy_skipped_steps"] == 1
    assert toys.distance(toys.weights(trainer.model), toys.weights(once.model)) == 0


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
def test_supervised_fine_tuning_with_trl(name, toy_model, toys, tmp_path):
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
    ours = trainer(with_strategy(trl.SFTTrainer, name, **toys.acting.get(name, {})))
    with own_numerics():
        ours.train()
        if name in ("full_sft", "ewc", LooksAtLogits):
            plain.train()
            distance = toys.distance(toys.weights(ours.model), toys.weights(plain.model))
            assert distance <= (ROUNDING if name is LooksAtLogits else 0)
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
