"""A tiny random language model, and the toy tasks in a Trainer."""

from __future__ import annotations

import gc
from itertools import islice
from typing import ClassVar

import pytest
import torch

from epi_bench.model.batching import drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing import toy_loop, toy_tasks
from epi_bench.testing import toy_model as make_toy_model
from epi_bench.testing.toys import BATCH, LEARNING_RATE, STEPS, own_numerics


@pytest.fixture(scope="module", autouse=True)
def _what_was_imported_is_no_garbage():
    """A Trainer looks through all objects for garbage each time it begins: here, the new ones."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tiny_llama():
    """Makes Llamas of 5,000 random parameters, all the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(vocabulary=64):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=vocabulary,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=64,
                    tie_word_embeddings=True,
                )
            )

    return make


@pytest.fixture(autouse=True)
def no_accelerator_of_another_test():
    """``accelerate`` keeps its state for the whole process: what a Trainer left in it goes."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class SameBatches:
    """Mixed into a Trainer: draws what this package's loop draws, step after step."""

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        index = self._run.entered - 1
        generator = seeded_generator(f"batches of experience {max(index, 0)}", 0)
        steps = islice(drawn_steps(len(rows), BATCH, generator), STEPS)
        return [position for step in steps for position in step]


class Toys:
    """The toy tasks in a Trainer with a strategy, and in this package's own loop.

    Attributes:
        acting: Options with which a strategy acts within six steps, and measures little; others act
            by default.
    """

    acting: ClassVar = {
        "epi": {"ratio": 0.3, "interval": 2, "warmup": 1},
        "epi_adaptive": {"longest_interval": 2, "slow": 0.9, "fast": 0.5},
        "random_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
        "inverted_mask": {"ratio": 0.3, "interval": 2, "warmup": 1},
        "epi_similarity": {"fisher_samples": 4},
        "epi_consolidated": {"fisher_samples": 4},
        "forgetting_price": {"fisher_samples": 4},
        "ewc": {"fisher_samples": 4},
        "mas": {"samples": 4},
        "fggm": {"fisher_samples": 4},
        "ewc_lora": {"fisher_samples": 4},
        "ssr": {"per_task": 8},
    }

    def __init__(self):
        self._weights_of_loops = {}

    def rows(self, experience):
        """Examples as a Trainer takes them."""
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

    def arguments(self, folder, **settings):
        """Of a Trainer that trains as the toy loop does."""
        from transformers import TrainingArguments

        return TrainingArguments(
            **{
                "output_dir": str(folder), "max_steps": STEPS, "disable_tqdm": True, "seed": 0,
                "per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATE,
                "lr_scheduler_type": "constant", "weight_decay": 0.01, "use_cpu": True,
                "report_to": [], "save_strategy": "no", "logging_steps": 1, **settings,
            }
        )  # fmt: skip

    def trainer(self, name, folder, *, options=None, model=None, given=None, **settings):
        """On the first toy task; ``given`` goes to its constructor, ``settings`` to its arguments.

        Args:
            name: Of the strategy, or its class.
            folder: For checkpoints.
            options: Of the strategy; ``acting`` if left out.
            model: The toy model if left out.
            given: Further arguments of the constructor.
            settings: Of ``TrainingArguments``.
        """
        from transformers import Trainer

        from epi_bench.bridges import with_strategy

        base = type("TrainerOnTheSameBatches", (SameBatches, Trainer), {})
        cls = with_strategy(
            base, name, **(self.acting.get(name, {}) if options is None else options)
        )
        rows = self.rows(toy_tasks()[0])
        return cls(
            model=model or make_toy_model(), args=self.arguments(folder, **settings),
            train_dataset=rows, eval_dataset=rows[:4], **(given or {}),
        )  # fmt: skip

    def trained(self, trainer):
        """The finished weights after both toy tasks."""
        with own_numerics():
            trainer.train()
            trainer.train_dataset = self.rows(toy_tasks()[1])
            trainer.train()
            return self.weights(trainer.finalize_model())

    def loop(self, strategy, **options):
        """This package's loop with a constant learning rate."""
        training = {"decay": "constant", "warmup_share": 0.0, **options.pop("training", {})}
        return toy_loop(strategy, training=training, **options)

    def loop_weights(self, name, **training):
        """The finished weights of this package's loop after both toy tasks."""
        key = name, *sorted(training.items())
        if key not in self._weights_of_loops:
            strategy = create_strategy(name, self.acting.get(name, {}))
            with own_numerics():
                loop = self.loop(strategy, training=training)
                for experience in toy_tasks():
                    loop.train(experience)
                finished = self.weights(strategy.finalize_model(loop.model))
            self._weights_of_loops[key] = finished
        return self._weights_of_loops[key]

    def weights(self, model):
        """Copies, by name."""
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    def distance(self, first, second):
        """Between the farthest two numbers of the same place."""
        assert first.keys() == second.keys()
        return max(
            (float((t - second[name]).abs().max()) for name, t in first.items() if t.numel()),
            default=0.0,
        )


@pytest.fixture(scope="module")
def toys():
    """See :class:`Toys`; what loops have trained is kept for the tests of a file."""
    return Toys()
