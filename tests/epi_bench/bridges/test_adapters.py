"""Strategies in a Trainer that is given a model with a peft adapter."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import Trainer, TrainingArguments

from epi_bench import UserError
from epi_bench.bridges import with_strategy
from epi_bench.model.batching import drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.spec.run_spec import AdapterSpec
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing import toy_loop, toy_model, toy_tasks
from epi_bench.testing.toys import BATCH, LEARNING_RATE, STEPS, own_numerics
from epi_bench.training.adapter import make_adapter

ADAPTER = {"kind": "lora", "rank": 2}

EPI = {"ratio": 0.3, "interval": 2, "warmup": 1}


class _SameBatches(Trainer):
    """Draws what this package's loop draws, step after step."""

    def _get_train_sampler(self, train_dataset=None):
        generator = seeded_generator(f"batches of experience {self._run.entered - 1}", 0)
        steps = islice(drawn_steps(len(self.train_dataset), BATCH, generator), STEPS)
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


def _adapted():
    """The toy model with the adapter that a run of seed 0 puts on it."""
    torch.manual_seed(0)
    return make_adapter(AdapterSpec(**ADAPTER)).wrap(toy_model())


def _trainer(name, options, folder, model=None, **settings):
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": BATCH,
            "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "weight_decay": 0.01,
            "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
            "seed": 0, **settings,
        }
    )  # fmt: skip
    cls = with_strategy(_SameBatches, name, **options)
    return cls(model=model or _adapted(), args=arguments, train_dataset=_rows(toy_tasks()[0]))


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "options"), [("ewc", {}), ("epi", EPI), ("task_arithmetic", {}), ("kl_to_base", {})]
)
def test_it_trains_the_adapter_as_a_run_does(name, options, tmp_path):
    with own_numerics():
        loop = toy_loop(
            create_strategy(name, options),
            adapter=ADAPTER,
            training={"decay": "constant", "warmup_share": 0.0},
        )
        for experience in toy_tasks():
            loop.train(experience)
    saving = {"save_strategy": "steps", "save_steps": 2}
    with own_numerics():
        trainer = _trainer(name, options, tmp_path, **saving)
        trainer.train()
        trainer.train_dataset = _rows(toy_tasks()[1])
        trainer.train()
        trained = _weights(trainer.model)
    assert all(torch.equal(trained[n], p) for n, p in loop.model.named_parameters())
    with own_numerics():  # the second experience once more, from its second step on
        again = _trainer(name, options, tmp_path, **saving)
        again.train_dataset = _rows(toy_tasks()[1])
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(trained[n], p) for n, p in again.model.named_parameters())


@pytest.mark.parametrize("name", ["lora", "o_lora", "osf"])
def test_strategies_with_weights_of_their_own_refuse_it(name, tmp_path):
    with pytest.raises(UserError, match=f"'{name}' .*, and the model has an adapter: give"):
        _trainer(name, {}, tmp_path)


@pytest.mark.parametrize("name", ["wise_ft", "restore_most_changed", "ties"])
def test_an_adapter_that_is_more_than_low_rank_updates_is_refused(name, tmp_path):
    from peft import LoraConfig, get_peft_model

    with_lengths = get_peft_model(toy_model(), LoraConfig(r=2, use_dora=True))
    with pytest.raises(UserError, match=f"{name} cannot work with the adapter of .*DoRA"):
        _trainer(name, {}, tmp_path, with_lengths)
    beside = _adapted()
    beside.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(UserError, match=f"{name} works on the adapter alone, and .*embed_tokens"):
        _trainer(name, {}, tmp_path, beside)
