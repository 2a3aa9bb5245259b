"""The training loop: loss, budget, hooks, determinism."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epi_bench import EncodedExample, Strategy
from epi_bench.errors import TrainingFailedError
from epi_bench.model.batching import collate, length_sorted_batches
from epi_bench.model.losses import mean_loss, summed_loss


def _examples(count=12, seed=0):
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        length = generator.randint(3, 12)
        ids = tuple(generator.randrange(100) for _ in range(length))
        made.append(EncodedExample(ids, tuple(i >= length // 2 for i in range(length))))
    return made


@pytest.fixture(scope="module")
def model(toy_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(toy_model).eval()


def test_loss_equals_that_of_transformers(model):
    batch = collate(_examples(), pad_token_id=0)
    assert mean_loss(model, batch).item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)


def test_loss_does_not_depend_on_how_a_step_is_cut(model):
    examples = _examples()
    whole, count = summed_loss(model, collate(examples, 0))
    parts = [summed_loss(model, collate(examples[i : i + 5], 0)) for i in range(0, 12, 5)]
    assert sum(tokens for _, tokens in parts) == count
    assert sum(total.item() for total, _ in parts) == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4), (1, 8), (3, 3)])
def test_accumulation_is_a_matter_of_memory_alone(train_toy, batch_size, accumulation):
    """The same examples in the same steps, hence the same weights up to rounding."""
    size = batch_size * accumulation
    whole, whole_losses = _trained(train_toy, batch_size=size, accumulation=1)
    cut, cut_losses = _trained(train_toy, batch_size=batch_size, accumulation=accumulation)
    assert cut_losses == pytest.approx(whole_losses, rel=1e-4)
    assert torch.allclose(cut, whole, rtol=0, atol=2e-5)


def _trained(train_toy, **training):
    losses = []
    loop = train_toy(
        steps=7,
        optimizer="sgd",
        on_step=lambda step, rate: losses.append(float(step.loss)),
        **training,
    )
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()]), losses


class _Given(Strategy):
    """Trains what it was given, whatever the experience holds."""

    def __init__(self, examples):
        self.examples = examples

    def training_examples(self, experience):
        return self.examples


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "nothing to train in 'toy_first'"),
        ([EncodedExample((1, 2, 3), (True, False, False))] * 3, "3 of 3 training examples of"),
        (
            [EncodedExample((1, 2), (False, True)), EncodedExample((1, 2), (False, False))],
            "1 of 2 training examples of 'toy_first' have no supervised token",
        ),
        ([EncodedExample((1,), (True,))], "1 of 1 training examples"),
        ([EncodedExample((1, 2), (True, True), weight=-1.0)], "has weight=-1.0: the strategy's"),
        ([EncodedExample((1, 2), (True, True), weight=float("nan"))], "has weight=nan"),
        ([EncodedExample((1, 2), (True, True), weight=0.0)] * 2, "every .* has weight 0"),
    ],
)
def test_examples_without_anything_to_learn_are_one_clear_error(train_toy, examples, message):
    with pytest.raises(TrainingFailedError, match=message):
        train_toy(strategy=_Given(examples))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 7))
def test_scoring_batches_hold_every_example_once_longest_first(lengths, batch_size):
    batches = list(length_sorted_batches(lengths, batch_size))
    order = [position for batch in batches for position in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[p] for p in order] == sorted(lengths, reverse=True)


def test_collate_by_hand():
    batch = collate(
        [EncodedExample((5, 6, 7), (False, True, True)), EncodedExample((8,), (True,))], 9
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_hooks_are_called_in_the_documented_order(train_toy):
    calls = []

    class Recorder(Strategy):
        def prepare_model(self, model):
            calls.append("prepare_model")
            return model

        def begin_training(self):
            calls.append("begin_training")

        def begin_experience(self, experience):
            calls.append(f"begin {experience.name}")

        def training_examples(self, experience):
            calls.append("training_examples")
            return experience.examples

        def token_weights(self, batch, logits):
            calls.append("token_weights")

        def batch_penalty(self, batch, logits):
            calls.append("batch_penalty")

        def penalty(self, model):
            calls.append("penalty")

        def gradients_ready(self, step):
            found = [p.grad for p in step.model.parameters()]
            assert found
            assert all(gradient is not None for gradient in found)
            calls.append("gradients_ready")

        def parameters_updated(self, step):
            calls.append("parameters_updated")

        def end_experience(self, experience):
            calls.append("end")

    train_toy(strategy=Recorder(), steps=1, accumulation=2)
    a_batch = ["token_weights", "batch_penalty"]
    a_step = [*a_batch, *a_batch, "penalty", "gradients_ready", "parameters_updated", "end"]
    first = ["begin toy_first", "training_examples", *a_step]
    second = ["begin toy_second", "training_examples", *a_step]
    assert calls == ["prepare_model", "begin_training", *first, *second]


def test_gradients_reach_the_hook_before_clipping(train_toy):
    norms = []

    class Norms(Strategy):
        def gradients_ready(self, step):
            norms.append(_gradient_norm(step.model))

        def parameters_updated(self, step):
            norms.append(_gradient_norm(step.model))

    train_toy(strategy=Norms(), steps=1, max_gradient_norm=0.01, tasks=["toy_first"])
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_a_penalty_changes_the_gradient_by_its_own(train_toy):
    gradients = {}

    class Pull(Strategy):
        def __init__(self, strength):
            self.strength = strength

        def penalty(self, model):
            return self.strength * sum(p.sum() for p in model.parameters())

        def gradients_ready(self, step):
            gradients[self.strength] = [p.grad.clone() for p in step.model.parameters()]

    for strength in (0.0, 2.0):
        train_toy(strategy=Pull(strength), steps=1, tasks=["toy_first"], accumulation=2)
    assert gradients[0.0]
    for plain, pulled in zip(gradients[0.0], gradients[2.0], strict=True):
        assert torch.allclose(pulled - plain, torch.full_like(plain, 2.0), atol=1e-4)


def test_two_trainings_of_one_specification_are_bit_identical(train_toy):
    first, second = train_toy("lora", {"dropout": 0.1}), train_toy("lora", {"dropout": 0.1})
    weights = [dict(loop.model.named_parameters()) for loop in (first, second)]
    assert any("lora" in name for name in weights[0])
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_trains_otherwise(train_toy):
    first, second = train_toy(seed=0), train_toy(seed=1)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True)
    )


def test_a_loss_that_is_not_finite_stops_the_run(train_toy):
    class Poison(Strategy):
        def parameters_updated(self, step):
            with torch.no_grad():
                next(iter(step.model.parameters())).fill_(float("nan"))

    with pytest.raises(TrainingFailedError, match="step 2 of 'toy_first'"):
        train_toy(strategy=Poison())


class _PoisonedGradients(Strategy):
    """Counts what it sees; the gradients of some steps are not finite, their loss is."""

    def __init__(self, poisoned, value=float("nan")):
        self.poisoned, self.value, self.seen, self.backward = set(poisoned), value, [], 0

    def penalty(self, model):
        self.backward += 1
        weight = model.model.norm.weight
        if self.backward not in self.poisoned:
            return None
        anchor = weight.detach().clone().requires_grad_(True)
        zero = (weight - anchor.detach()).sum()
        zero.register_hook(lambda gradient: gradient * self.value)
        return zero

    def gradients_ready(self, step):
        assert all(torch.isfinite(p.grad).all() for p in step.model.parameters())
        self.seen.append(step.number)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_with_gradients_that_are_not_finite_is_skipped_and_counted(train_toy, value):
    strategy = _PoisonedGradients({2, 3}, value)
    weights, skipped = {0: None}, []

    def on_step(step, rate):
        weights[step.number] = [p.detach().clone() for p in step.model.parameters()]
        if step.skipped:
            skipped.append(step.number)

    loop = train_toy(strategy=strategy, on_step=on_step, tasks=["toy_first"])
    assert loop.cost.skipped_steps == 2
    assert skipped == [2, 3]
    assert strategy.seen == [1, 4, 5, 6]
    assert weights[1]
    for before, after, later in zip(weights[1], weights[3], weights[4], strict=True):
        assert torch.equal(before, after)
        assert torch.isfinite(later).all()


def test_too_many_skipped_steps_in_a_row_end_the_run(train_toy):
    with pytest.raises(TrainingFailedError, match=r"gradients of 3 steps in a row.*step 5 of"):
        train_toy(strategy=_PoisonedGradients({1, 3, 4, 5}), max_skipped_steps=3)
    train_toy(strategy=_PoisonedGradients({1, 2, 4, 5}), max_skipped_steps=3)


def test_isolation_is_not_poisoned_by_a_skipped_step(train_toy):
    from epi_bench.strategy.strategy import create_strategy

    epi = create_strategy("epi", {"ratio": 0.3, "warmup": 1, "interval": 1})
    poison = _PoisonedGradients({3})
    epi.penalty = poison.penalty
    loop = train_toy(strategy=epi, tasks=["toy_first"])
    assert loop.cost.skipped_steps == 1
    importance = epi.isolation.importance.values
    assert importance
    assert all(torch.isfinite(values).all() for values in importance.values())
    assert epi.isolation.protected_count == epi.isolation.target_count


@pytest.mark.parametrize("strategy", ["full_sft", "epi"])
def test_clipping_is_that_of_torch(train_toy, strategy):
    """Whether the norm is measured once or twice a step."""
    seen = []

    class Clipped(Strategy):
        changes_gradients = strategy == "full_sft"

        def gradients_ready(self, step):
            self.parameters = [p.detach().clone() for p in step.model.parameters()]
            for copy, parameter in zip(self.parameters, step.model.parameters(), strict=True):
                copy.grad = parameter.grad.clone()
            torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)

        def parameters_updated(self, step):
            for copy, parameter in zip(self.parameters, step.model.parameters(), strict=True):
                seen.append(torch.equal(copy.grad, parameter.grad))

    train_toy(strategy=Clipped(), max_gradient_norm=0.5, tasks=["toy_first"])
    assert seen
    assert all(seen)


def test_trained_parameters_are_those_of_the_experience_that_trains_most(train_toy):
    """What is frozen when an experience begins counts as frozen, not as it was at the start."""

    class FirstTensorFrozenFromTheSecondOn(Strategy):
        def begin_experience(self, experience):
            first = next(iter(self.context.model.parameters()))
            first.requires_grad_(experience.index == 0)

    class FirstTensorFrozen(Strategy):
        def begin_experience(self, experience):
            next(iter(self.context.model.parameters())).requires_grad_(False)

    loop = train_toy(strategy=FirstTensorFrozenFromTheSecondOn())
    everything = sum(p.numel() for p in loop.model.parameters())
    assert loop.cost.trained_parameters == everything
    loop = train_toy(strategy=FirstTensorFrozen())
    first = next(iter(loop.model.parameters())).numel()
    assert loop.cost.trained_parameters == everything - first


def test_a_model_without_trainable_parameters_is_refused(train_toy):
    from epi_bench.errors import UserError

    class Frozen(Strategy):
        def prepare_model(self, model):
            return model.requires_grad_(False)

    with pytest.raises(UserError, match="no trainable parameters"):
        train_toy(strategy=Frozen())


def _gradient_norm(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()


def test_nothing_is_done_before_the_loop_is_started(model):
    """A loop that has only been made leaves model and strategy alone, and does not train."""
    from epi_bench.spec.run_spec import TrainingSpec
    from epi_bench.strategy.hooks import Experience
    from epi_bench.training.accelerator import create_accelerator
    from epi_bench.training.loop import TrainingLoop

    calls = []

    class Recorder(Strategy):
        def prepare_model(self, model):
            calls.append("prepare_model")
            return model

    strategy, spec = Recorder(), TrainingSpec(steps=1)
    loop = TrainingLoop(
        spec=spec,
        strategy=strategy,
        model=deepcopy(model),
        pad_token_id=0,
        seed=0,
        accelerator=create_accelerator(spec, cpu=True),
        total_steps=1,
        experience_count=1,
    )
    experience = Experience(0, "a", ("a",), _examples(), 1)
    with pytest.raises(RuntimeError, match="call start"):
        loop.train(experience)
    assert not calls
    assert not hasattr(strategy, "context")
    assert loop.start() is loop
    loop.train(experience)
    assert calls == ["prepare_model"]
    assert loop.steps_done == 1
    assert loop.cost.tokens == sum(map(len, _drawn(loop, experience)))


def _drawn(loop, experience):
    """The examples of the experience's first step."""
    return next(loop._drawn_steps(experience.examples, experience))


def test_the_optimizer_is_made_with_the_rate_that_it_steps_with(train_toy, monkeypatch):
    """At a constant rate, the one of the first step: the strategy's factor is in it."""
    from epi_bench.training import loop as module

    made, rates = [], []
    original = module.build_optimizer

    def spy(parameters, spec, learning_rate):
        made.append(learning_rate)
        return original(parameters, spec, learning_rate)

    monkeypatch.setattr(module, "build_optimizer", spy)

    class Faster(Strategy):
        learning_rate_factor = 3.0

    train_toy(
        strategy=Faster(),
        steps=2,
        learning_rate=1e-3,
        warmup_share=0.0,
        decay="constant",
        on_step=lambda step, rate: rates.append(rate),
    )
    assert made == pytest.approx([3e-3, 3e-3])  # one for each experience
    assert rates == [made[0]] * 4


def test_an_optimizer_is_let_go_with_its_experience():
    """Its moments are 8 bytes a parameter: they must not wait for the garbage collector."""
    import gc
    import weakref

    from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

    gc.collect()
    gc.disable()
    try:
        with own_numerics():
            loop = toy_loop(Strategy())
            first, second = toy_tasks()
            loop.train(first)
            old = weakref.ref(loop._optimizer)
            loop.train(second)
        assert old() is None
    finally:
        gc.enable()
