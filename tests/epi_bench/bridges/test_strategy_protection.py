"""Strategies in a loop of one's own: ``protect(..., strategy=...)``."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

import epi_bench
from epi_bench import Strategy, UserError
from epi_bench.bridges import StrategyProtection
from epi_bench.model.batching import collate, drawn_steps
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing import toy_loop, toy_model, toy_tasks
from epi_bench.testing.toys import BATCH, LEARNING_RATE, STEPS, own_numerics

STRATEGIES = {
    "epi_similarity": {},
    "epi_consolidated": {"ratio": 0.2},
    "ewc": {},
    "forgetting_price": {},
    "hft": {},
    "mofo": {},
    "osf": {},
    "si": {},
    "static_mask": {"ratio": 0.3, "warmup": 1},
    "task_arithmetic": {},
}
UNCLIPPED = {"decay": "constant", "warmup_share": 0.0, "max_gradient_norm": 0.0}


def _optimizer(model):
    trained = list(model.parameters())
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)


def _batches(experience, start=0):
    generator = seeded_generator(f"batches of experience {experience.index}", 0)
    for positions in islice(drawn_steps(len(experience.examples), BATCH, generator), start, STEPS):
        yield collate([experience.examples[position] for position in positions], 0)


def _step(model, optimizer, protection, batch):
    model.train()
    loss = model(**batch).loss + protection.penalty()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _farthest(first, second):
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(("name", "options"), STRATEGIES.items())
def test_a_strategy_trains_as_in_the_loop(name, options):
    strategy = create_strategy(name, options)
    with own_numerics():
        loop = toy_loop(strategy, training={**UNCLIPPED, "fresh_optimizer": name == "hft"})
        for experience in toy_tasks()[: 1 if name == "hft" else 2]:
            loop.train(experience)
        model = toy_model()
        optimizer = _optimizer(model)
        protection = epi_bench.protect(optimizer, model, strategy=name, **options)
        for experience in toy_tasks()[: 1 if name == "hft" else 2]:
            protection.begin_experience(experience.name, experience.examples)
            for batch in _batches(experience):
                _step(model, optimizer, protection, batch)
            protection.end_experience()
    assert _farthest(_weights(model), _weights(loop.model)) == 0
    assert protection.state_bytes() == strategy.state_bytes()
    assert protection.statistics()["steps"] == loop.steps_done


def test_a_saved_state_goes_on_exactly(tmp_path):
    first, second = toy_tasks()

    def started():
        model = toy_model()
        optimizer = _optimizer(model)
        options = {"strategy": "epi_similarity", "penalty": 50.0}
        return model, optimizer, epi_bench.protect(optimizer, model, **options)

    with own_numerics():
        model, optimizer, protection = started()
        protection.begin_experience("first", first.examples)
        for batch in _batches(first):
            _step(model, optimizer, protection, batch)
        protection.end_experience()
        protection.begin_experience("second", second.examples)
        for number, batch in enumerate(_batches(second)):
            if number == 1:
                protection.save(tmp_path)
                saved = _weights(model), _copied(optimizer.state_dict())
            _step(model, optimizer, protection, batch)

        other, its_optimizer, again = started()
        other.load_state_dict(saved[0], strict=False)
        its_optimizer.load_state_dict(saved[1])
        again.load(tmp_path, second.examples)
        for batch in _batches(second, start=1):
            _step(other, its_optimizer, again, batch)
    assert _farthest(_weights(model), _weights(other)) == 0
    assert again.statistics() == protection.statistics()


def _copied(state):
    return {
        "param_groups": state["param_groups"],
        "state": {
            key: {name: tensor.clone() for name, tensor in kept.items()}
            for key, kept in state["state"].items()
        },
    }


class SevenMore(Strategy):
    """Adds a constant to the loss."""

    def penalty(self, model):
        return 7.0 + 0.0 * model.model.norm.weight.sum()


def test_the_penalty_counts_once_a_step_whatever_the_accumulation():
    model = toy_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    protection = epi_bench.protect(optimizer, model, strategy=SevenMore)
    for _ in range(2):
        penalties = [protection.penalty() for _ in range(3)]
        assert [float(penalty.detach()) for penalty in penalties] == [7.0, 0.0, 0.0]
        sum(penalties).backward()
        optimizer.step()


def test_a_penalty_that_is_left_out_is_an_error():
    model = toy_model()
    optimizer = _optimizer(model)
    epi_bench.protect(optimizer, model, strategy="ewc")
    (batch,) = islice(_batches(toy_tasks()[0]), 1)
    model(**batch).loss.backward()
    before = _weights(model)
    with pytest.raises(UserError, match=r"'ewc' adds to the loss: train loss \+ protection"):
        optimizer.step()
    assert _farthest(before, _weights(model)) == 0


def test_a_step_with_infinite_gradients_is_left_out():
    model = toy_model()
    optimizer = _optimizer(model)
    protection = epi_bench.protect(optimizer, model, strategy="epi", warmup=0, ratio=0.3)
    before = _weights(model)
    model.model.norm.weight.grad = torch.full_like(model.model.norm.weight, float("inf"))
    optimizer.step()
    assert _farthest(before, _weights(model)) == 0
    assert protection.statistics()["skipped_steps"] == 1


def test_examples_that_were_not_given_are_asked_for():
    model = toy_model()
    optimizer = _optimizer(model)
    protection = epi_bench.protect(optimizer, model, strategy="epi_similarity")
    (batch,) = islice(_batches(toy_tasks()[0]), 1)
    _step(model, optimizer, protection, batch)
    with pytest.raises(UserError, match=r"needs the experience's examples: call .*begin_exp"):
        protection.end_experience()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("replay", "'replay' chooses the training examples, which protect"),
        ("lora", "'lora' puts adapters into the model"),
        ("low_learning_rate", "changes the learning rate.*multiply your optimizer's by"),
        ("epi_similarty", "did you mean 'epi_similarity'"),
    ],
)
def test_what_a_loop_of_ones_own_cannot_do_is_refused(name, message):
    model = toy_model()
    with pytest.raises(UserError, match=message):
        epi_bench.protect(_optimizer(model), model, strategy=name)


def test_rows_are_examples_too():
    model = toy_model()
    optimizer = _optimizer(model)
    with epi_bench.protect(optimizer, model, strategy="ewc") as protection:
        assert isinstance(protection, StrategyProtection)
        protection.begin_experience(
            "rows", [{"input_ids": [2, 4, 3, 4], "labels": [-100] * 3 + [4]}]
        )
        protection.penalty()
        protection.end_experience()
        assert protection.state_bytes() > 0
        with pytest.raises(UserError, match="protected already"):
            epi_bench.protect(optimizer, model, strategy="ewc")
    assert not protection.active
    protection.begin_experience("wrong", [{"input_ids": [2, 4], "labels": [4, 4]}])
    with pytest.raises(UserError, match=r"row 0 .* labels other than its own tokens"):
        protection.end_experience()
