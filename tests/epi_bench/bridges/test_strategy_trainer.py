"""Strategies in ``transformers.Trainer``: the same training as in this package's own loop."""

from __future__ import annotations

from functools import cache
from itertools import islice

import pytest
import torch
from transformers import Trainer, TrainingArguments

from epi_bench.bridges import with_strategy
from epi_bench.model.batching import collate, drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import toy_loop, toy_model, toy_tasks
from epi_bench.testing.toys import BATCH, LEARNING_RATE, STEPS, own_numerics

ACTING = {
    "epi": {"ratio": 0.3, "interval": 2, "warmup": 1},
    "epi_adaptive": {},
    "random_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
    "inverted_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
}
"""Options with which a strategy acts within six steps; others act with their defaults."""


class _SameBatches(Trainer):
    """Draws what this package's loop draws, step after step."""

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        index = self._run.entered - 1
        generator = seeded_generator(f"batches of experience {max(index, 0)}", 0)
        steps = islice(drawn_steps(len(rows), BATCH, generator), STEPS)
        return [position for step in steps for position in step]


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
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_strategy_trains_as_in_the_loop(name, tmp_path):
    weights = _trained(_trainer(name, tmp_path))
    assert _distance(weights, _loop_weights(name)) == 0
    if name != "full_sft":
        assert _distance(weights, _loop_weights("full_sft")) > 1e-5, "the strategy did not act"


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_micro_batches_train_as_one_batch(name, tmp_path):
    halves = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    weights = _trained(_trainer(name, tmp_path, **halves))
    print(name, _distance(weights, _loop_weights(name)))
    assert _distance(weights, _loop_weights(name)) < 1e-2


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_resumed_training_ends_as_in_the_loop(name, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = _trainer(name, tmp_path, **saving)
    _trained(first)
    again = _trainer(name, tmp_path, **saving)
    with own_numerics():
        again.train_dataset = _rows(toy_tasks()[1])
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        weights = _weights(again.finalize_model())
    assert _distance(weights, _loop_weights(name)) == 0
    assert again.strategy.diagnostics() == first.strategy.diagnostics()
