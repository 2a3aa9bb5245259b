"""Every hook of the contract, and all that its context offers, in loops that are not ours.

They are called where this package's loop calls them, with the model in the same state; what a loop
cannot do is refused.
"""

from __future__ import annotations

import inspect
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import epi_bench
from epi_bench import Strategy, UserError
from epi_bench.model.base_examples import BaseExamples
from epi_bench.model.batching import collate, drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.hooks import StrategyContext
from epi_bench.testing import toy_tasks
from epi_bench.testing.toys import BATCH, STEPS, own_numerics

HOOKS = {
    name
    for name, member in vars(Strategy).items()
    if inspect.isfunction(member) and not name.startswith("_")
}

OF_THE_LOOP = (
    "prepare_model", "begin_training", "begin_experience", "training_examples", "token_weights",
    "batch_penalty", "penalty", "gradients_ready", "parameters_updated", "stop_experience",
    "end_experience", "finalize_model",
)  # fmt: skip
"""What the training loop calls, and the benchmark's end; the others are called around them."""

REFUSED_BY_PROTECT = {"training_examples", "token_weights", "batch_penalty", "stop_experience"}

ASKED_BY_THE_USER = {"stiffness"}
"""Of the strategy itself: neither loop has a place to show it, nor a Trainer ``state_bytes``."""

ADAMW = {"lr": 3e-3, "weight_decay": 0.01}


def _recorder(names):
    """A strategy that notes each call of some hooks, and what the model is like by then."""
    calls = []

    def watched(name):
        whole = getattr(Strategy, name)

        def hook(self, *arguments):
            calls.append((name, *_state(self, arguments)))
            return whole(self, *arguments)

        return hook

    return type("Recorder", (Strategy,), {name: watched(name) for name in names}), calls


def _state(strategy, arguments):
    context = getattr(strategy, "context", None)
    if context is None:
        return ()
    model = context.model
    numbers = [(a.number, a.number_in_experience) for a in arguments if hasattr(a, "skipped")]
    return (
        model.training,
        any(p.grad is not None for p in model.parameters()),
        context.optimizer is not None,
        [argument.index for argument in arguments if hasattr(argument, "tasks")],
        numbers,
    )


@pytest.fixture(scope="module")
def tokenizer(toy_model):
    return AutoTokenizer.from_pretrained(toy_model)


@pytest.fixture
def model(toy_model):
    """A fresh one for each call, for short texts: it writes them quickly."""
    settings = {"dtype": torch.float32, "max_position_embeddings": 8}
    return lambda: AutoModelForCausalLM.from_pretrained(toy_model, **settings)


def _loop_calls(toys, model, names, **training):
    cls, calls = _recorder(names)
    strategy = cls()
    with own_numerics():
        loop = toys.loop(strategy, model=model(), training=training)
        for experience in toy_tasks():
            loop.train(experience)
        strategy.finalize_model(loop.model)
    return calls


def test_a_trainer_calls_the_hooks_where_the_loop_does(toys, model, tmp_path):
    cls, calls = _recorder(OF_THE_LOOP)
    toys.trained(toys.trainer(cls, tmp_path, model=model()))
    assert calls == _loop_calls(toys, model, OF_THE_LOOP)


def test_a_loop_of_ones_own_does_too(toys, model):
    names = [name for name in OF_THE_LOOP if name not in REFUSED_BY_PROTECT]
    cls, calls = _recorder(names)
    _train_by_hand(model(), toy_tasks(), strategy=cls).finalize_model()
    # clipping, which comes between, is the user's; here there is one optimizer for all experiences
    assert calls == _loop_calls(toys, model, names, max_gradient_norm=0.0, fresh_optimizer=False)


def _train_by_hand(model, experiences, begins=True, **arguments):
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    protection = epi_bench.protect(optimizer, model, **arguments)
    with own_numerics():
        for experience in experiences:
            if begins:
                protection.begin_experience(experience.name, experience.examples)
            generator = seeded_generator(f"batches of experience {experience.index}", 0)
            drawn = drawn_steps(len(experience.examples), BATCH, generator)
            for positions in islice(drawn, STEPS):
                model.train()
                loss = model(**collate([experience.examples[i] for i in positions], 0)).loss
                (loss + protection.penalty()).backward()
                optimizer.step()
                optimizer.zero_grad()
            model.eval()  # as after an evaluation of the user's own
            if begins:
                protection.end_experience()
    return protection


def test_every_hook_is_called_in_a_trainer_or_asked_for_by_the_user(toys, model, tmp_path):
    cls, calls = _recorder(HOOKS)
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = toys.trainer(cls, tmp_path, model=model(), **saving)
    trainer.train()
    trainer.evaluate()
    again = toys.trainer(cls, tmp_path, model=model(), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    again.finalize_model()
    assert {call[0] for call in calls} == HOOKS - ASKED_BY_THE_USER - {"state_bytes"}


def test_every_hook_is_called_by_protect_or_refused(model, tmp_path):
    cls, calls = _recorder(HOOKS - REFUSED_BY_PROTECT)
    protection = _train_by_hand(model(), toy_tasks()[:1], strategy=cls)
    protection.save(tmp_path)
    protection.load(tmp_path)
    protection.statistics()
    protection.state_bytes()
    with protection.finished():
        pass
    protection.finalize_model()
    assert {call[0] for call in calls} == HOOKS - ASKED_BY_THE_USER - REFUSED_BY_PROTECT
    for name in REFUSED_BY_PROTECT:
        refused, _ = _recorder([name])
        with pytest.raises(UserError, match=r"which protect\(\) cannot do: use epi"):
            _train_by_hand(model(), toy_tasks()[:1], strategy=refused)


class LooksAround(Strategy):
    """Notes all that the context offers before each experience."""

    def __init__(self) -> None:
        self.seen = []

    def begin_experience(self, experience):
        context, examples = self.context, list(experience.examples[:2])
        (batch,) = context.batches(examples, 2)
        self.seen.append(
            {
                "seed": context.seed,
                "model": sorted(name for name, _ in context.model.named_parameters()),
                "device": context.device.type,
                "total_steps": context.total_steps,
                "experience_count": context.experience_count,
                "optimizer": type(context.optimizer).__name__,
                "generator": context.generator("a purpose").random(),
                "torch_generator": context.torch_generator("a purpose").initial_seed(),
                "base_experience": [
                    context.base_experience(source, 3).examples
                    for source in ("self", "general_text")
                ],
                "batches": {key: tensor.tolist() for key, tensor in batch.items()},
                "loss": context.loss(context.model, batch).item(),
                "validation_split": context.validation_split(experience, 2),
                "count_tokens": context.count_tokens(3),
                "test_prompts_among": context.test_prompts_among([examples[0].input_ids]),
            }
        )


UNKNOWN = {
    "total_steps": [STEPS, 2 * STEPS], "experience_count": [1, 2], "test_prompts_among": [None] * 2,
}  # fmt: skip
"""How many steps and experiences are to come no loop but ours knows: those so far count. Nor does
any other know test prompts."""


ONLY_IN_A_RUN = {
    "experiences": lambda context: context.experiences,
    "probe": lambda context: context.probe([], 1, "a purpose"),
    "answer_scores": lambda context: context.answer_scores(None, []),
}
"""What a loop that is not ours cannot offer, and says so."""


class NeedsARun(Strategy):
    """Asks for what only a run knows.

    Args:
        part: Of the context.
    """

    def __init__(self, part: str = "") -> None:
        self.part = part

    def begin_experience(self, experience):
        ONLY_IN_A_RUN[self.part](self.context)


@pytest.mark.parametrize("part", ONLY_IN_A_RUN)
def test_what_only_a_run_can_offer_is_refused(part, toys, model, tmp_path):
    trainer = toys.trainer(NeedsARun, tmp_path, model=model(), options={"part": part})
    with pytest.raises(UserError, match="epi-bench"):
        trainer.train()
    with pytest.raises(UserError, match="epi-bench"):
        _train_by_hand(model(), toy_tasks()[:1], strategy=NeedsARun, part=part)


def test_a_context_offers_what_the_loops_does(toys, model, tokenizer, tmp_path):
    texts = ["red green blue one two three", "copy the word"]
    strategy = LooksAround()
    with own_numerics():
        loop = toys.loop(strategy, model=model())
        loop.context.base_texts = BaseExamples(tokenizer, lambda: texts, max_length=8)
        for experience in toy_tasks():
            loop.train(experience)
    given = {"processing_class": tokenizer, "general_text": texts}
    trainer = toys.trainer(LooksAround, tmp_path, model=model(), given=given)
    toys.trained(trainer)
    offered = {name for name in vars(StrategyContext) if not name.startswith("_")}
    assert set(strategy.seen[0]) == offered - set(ONLY_IN_A_RUN)
    by_hand = _train_by_hand(
        model(), toy_tasks(), strategy=LooksAround, tokenizer=tokenizer, general_text=texts
    )
    for seen, unknown in (
        (trainer.strategy.seen, UNKNOWN),
        (by_hand.strategy.seen[:1], {**UNKNOWN, "total_steps": [0]}),
    ):
        for name in strategy.seen[0]:
            expected = unknown.get(name) or [before[name] for before in strategy.seen]
            assert [facts[name] for facts in seen] == expected[: len(seen)], name


class ReadsTheLoss(Strategy):
    """Needs the loss of the step."""

    def gradients_ready(self, step):
        float(step.loss)


def test_a_loss_that_is_not_known_is_not_read_as_a_number(model):
    with pytest.raises(UserError, match=r"reads step.loss, which protect\(\) does not know"):
        _train_by_hand(model(), toy_tasks()[:1], strategy=ReadsTheLoss)


def test_a_base_measured_in_the_middle_of_the_first_step_leaves_its_gradients(model, tokenizer):
    ended = []
    for begins in (True, False):
        trained = model()
        _train_by_hand(
            trained, toy_tasks()[:1], begins, strategy="static_mask", ratio=0.5, warmup=1,
            protect_base="self", tokenizer=tokenizer,
        )  # fmt: skip
        ended.append({name: p.detach().clone() for name, p in trained.named_parameters()})
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    before = dict(model().named_parameters())
    assert any(not torch.equal(before[name], ended[0][name]) for name in before)
