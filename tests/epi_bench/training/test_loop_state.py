"""A loop that goes on from a saved state trains what an uninterrupted one trains, bit for bit."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from epi_bench import EncodedExample, Strategy
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import STEPS, own_numerics, toy_loop, toy_model, toy_tasks
from epi_bench.training.loop_state import (
    ModelState,
    StateMismatchError,
    digest,
    drawn_examples,
    drawn_state,
    optimizer_state,
    put_optimizer_state,
    put_random_state,
    random_state,
)


def weights(loop):
    return {name: p.detach().clone() for name, p in loop.model.named_parameters()}


def started(strategy, dtype="float32", **training):
    loop = toy_loop(strategy, model=toy_model(dtype=dtype), training=training)
    loop.remember_start()
    return loop


class StoppedError(Exception):
    pass


def trained(make, stop=None, dtype="float32", **training):
    """The loop after both tasks; a new one goes on after step ``stop``."""

    def leave():
        if loop.steps_done == stop:
            raise StoppedError

    loop = started(make(), dtype, **training)
    experiences = toy_tasks()
    try:
        for experience in experiences:
            loop.train(experience, at_rest=leave)
    except StoppedError:
        state = deepcopy(loop.state_dict())
        first = state.values["place"]["experience"]
        torch.manual_seed(99)
        loop = started(make(), dtype, **training)
        loop.load_state_dict(state, experiences)
        for experience in experiences[first:]:
            loop.train(experience)
    return loop


@pytest.mark.parametrize("name", ["full_sft", "lora", "epi", "replay", "epi_consolidated"])
@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2])
def test_interrupted_equals_uninterrupted(name, stop):
    with own_numerics():
        whole, resumed = (
            trained(lambda: create_strategy(name, {}), at) for at in (None, stop)
        )  # fmt: skip
        assert resumed.steps_done == whole.steps_done
        assert resumed.cost.tokens == whole.cost.tokens
        assert weights(resumed).keys() == weights(whole).keys()
        for key, value in weights(whole).items():
            assert torch.equal(weights(resumed)[key], value), key


@pytest.mark.parametrize(
    "training",
    [
        {"dtype": "bfloat16", "master_weights": "none"},
        {"dtype": "bfloat16", "master_weights": "float32"},
        {"optimizer": "sgd", "fresh_optimizer": False},
        {"optimizer": "adafactor", "accumulation": 2},
        {"fresh_optimizer": False},
    ],
    ids=str,
)
def test_it_does_so_with_every_optimizer_and_precision(training):
    with own_numerics():
        whole, resumed = (trained(Strategy, at, **training) for at in (None, STEPS + 1))
        for key, value in weights(whole).items():
            assert torch.equal(weights(resumed)[key], value), key


def test_between_two_experiences():
    with own_numerics():
        first, second = toy_tasks()
        loop = started(create_strategy("epi", {}))
        loop.train(first)
        state = deepcopy(loop.state_dict())
        assert state.values["place"] is None
        assert "optimizer" not in state.tensors  # the next experience makes its own
        again = started(create_strategy("epi", {}))
        again.load_state_dict(state, [first, second])
        loop.train(second)
        again.train(second)
        assert all(torch.equal(weights(again)[name], p) for name, p in weights(loop).items())


def test_hooks_are_not_called_again_in_the_middle_of_an_experience():
    called = []

    class Recorder(Strategy):
        def begin_experience(self, experience):
            called.append(f"begin {experience.name}")

        def training_examples(self, experience):
            called.append(f"examples {experience.name}")
            return list(experience.examples)

        def end_experience(self, experience):
            called.append(f"end {experience.name}")

    with own_numerics():
        trained(Recorder, STEPS)  # after the last step, before end_experience
    one = ["begin first", "examples first", "end first"]
    assert called == [*one, "begin second", "examples second", "end second"]


def test_what_a_strategy_draws_from_the_process_goes_on(monkeypatch):
    class Noisy(Strategy):
        def gradients_ready(self, step):
            for parameter in step.model.parameters():
                parameter.grad.add_(random.random() * torch.rand(()) * np.random.rand() * 0.1)

        def prepare_model(self, model):
            random.seed(3)
            np.random.seed(3)
            return model

    with own_numerics():
        whole, resumed = trained(Noisy), trained(Noisy, 2)
        assert all(torch.equal(weights(resumed)[name], p) for name, p in weights(whole).items())


def test_frozen_weights_are_not_saved_and_those_that_changed_are():
    with own_numerics():
        loop = started(create_strategy("lora", {}))
        saved = set(loop.state_dict().tensors["model"])
        assert saved
        assert all("lora_" in name for name in saved)
        base = next(p for name, p in loop.model.named_parameters() if "base_layer" in name)
        base.data.add_(1)
        changed = set(loop.state_dict().tensors["model"]) - saved
        assert len(changed) == 1
        assert "base_layer" in changed.pop()


def test_which_weights_are_trained_is_taken_up():
    """A strategy may freeze weights on the way; the optimizer keeps stepping those it has."""

    class Freezes(Strategy):
        def parameters_updated(self, step):
            step.model.lm_head.weight.requires_grad_(step.number < 2)

    with own_numerics():
        whole, resumed = trained(Freezes), trained(Freezes, 2)
        assert all(torch.equal(weights(resumed)[name], p) for name, p in weights(whole).items())


def test_a_model_that_another_one_prepared_is_refused():
    with own_numerics():
        state = started(create_strategy("lora", {"rank": 4})).state_dict()
        for other in ({"rank": 8}, {"rank": 4, "target_modules": "q_proj"}):
            loop = started(create_strategy("lora", other))
            with pytest.raises(StateMismatchError):
                loop.load_state_dict(state, toy_tasks())


def test_a_base_that_is_not_the_same_is_refused():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    values, changed = ModelState(model).take(model)
    other = deepcopy(model)
    other.bias.data.add_(1)
    with pytest.raises(StateMismatchError, match="'bias' is not what it was"):
        ModelState(other).put(other, values, changed)


def test_parameters_that_came_after_prepare_model_are_refused():
    class Grows(Strategy):
        def begin_experience(self, experience):
            self.context.model.added = nn.Linear(2, 2)

    with (
        own_numerics(),
        pytest.raises(StateMismatchError, match=r"no 'added\.bias'.*in prepare_model"),
    ):
        trained(Grows, 1)


def test_the_state_is_not_given_within_a_step_or_a_hook():
    class Asks(Strategy):
        def end_experience(self, experience):
            loop.state_dict()

    with own_numerics():
        loop = started(Asks())
        loop.state_dict()
        with pytest.raises(RuntimeError, match="not complete"):
            loop.train(toy_tasks()[0])


def test_a_pause_is_taken_again_where_the_loop_goes_on_after_its_step():
    with own_numerics():
        first = toy_tasks()[0]
        loop = started(Strategy())

        def leave(number):
            raise StoppedError

        with pytest.raises(StoppedError):
            loop.train(first, pauses=[2], on_pause=leave)
        state = deepcopy(loop.state_dict())
        assert state.values["place"]["steps"] == 2
        again = started(Strategy())
        again.load_state_dict(state, toy_tasks())
        paused = []
        again.train(first, pauses=[1, 2], on_pause=paused.append)
        assert paused == [2]
        assert again.steps_done == STEPS


def test_time_at_rest_is_not_training_time():
    import time

    with own_numerics():
        loop = started(Strategy())
        loop.train(toy_tasks()[0], at_rest=lambda: time.sleep(0.3))
        assert 0 < loop.cost.seconds < 0.3 * STEPS


def test_examples_are_named_or_written_out():
    own = [EncodedExample((i, i + 1), (False, True)) for i in range(3)]
    old = EncodedExample((7, 8, 9), (True, False, True), cut=4)
    state = drawn_state([own[2], old, old, own[0]], own)
    assert state["positions"].tolist() == [2, 3, 3, 0]
    assert state["input_ids"].tolist() == [7, 8, 9]  # once
    found = drawn_examples(state, own)
    assert found == [own[2], old, old, own[0]]
    assert found[0] is own[2]
    assert drawn_examples(drawn_state(own, own), own) == own
    weighed = [replace(example, weight=1 / 3) for example in own]
    assert drawn_examples(drawn_state(weighed, own), own) == weighed
    assert "weights" not in state  # as checkpoints have always been


@pytest.mark.parametrize("fused", [True, False])
def test_moments_keep_their_type(fused):
    """torch's own load_state_dict would make them bfloat16."""
    weight = nn.Linear(3, 3, bias=False, dtype=torch.bfloat16)
    make = lambda: torch.optim.AdamW(weight.parameters(), lr=0.1, fused=fused)  # noqa: E731
    first = make()
    moments = {
        "step": torch.tensor(4.0),
        "exp_avg": torch.rand(3, 3),
        "exp_avg_sq": torch.rand(3, 3),
    }
    first.state[weight.weight] = dict(moments)
    groups, tensors = optimizer_state(first, weight)
    second = make()
    put_optimizer_state(second, weight, groups, tensors)
    for key, value in moments.items():
        found = second.state[weight.weight][key]
        assert found.dtype == torch.float32
        assert torch.equal(found, value)
    assert second.param_groups[0]["betas"] == (0.9, 0.999)


def test_random_states_come_back():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        values, tensors = random_state()
        drawn = [(random.random(), np.random.randn(3).tolist(), torch.rand(2).tolist())]
        random.gauss(0, 1)
        put_random_state(values, tensors)
        assert [(random.random(), np.random.randn(3).tolist(), torch.rand(2).tolist())] == drawn
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def test_a_digest_tells_values_shape_and_type():
    tensor = torch.tensor([[1.0, 2.0]])
    assert digest(tensor) == digest(tensor.clone())
    others = [tensor.t(), tensor.double(), tensor + 1, tensor.view(2), torch.empty(0)]
    assert len({digest(other) for other in [tensor, *others]}) == 6
    assert digest(tensor.expand(2, 2).t()) == digest(tensor.expand(2, 2).t().contiguous())
