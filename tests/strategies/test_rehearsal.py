"""The memory of examples, A-GEM and dark experience replay."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategies.der import with_rest
from epi_bench.strategy.example_memory import ExampleMemory
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks


def _examples(first, count):
    return [EncodedExample((first + i, 0), (False, True)) for i in range(count)]


def test_a_reservoir_keeps_each_example_with_the_same_probability():
    kept = torch.zeros(10)
    for seed in range(4000):
        memory, generator = ExampleMemory(3), random.Random(seed)
        memory.offer(_examples(0, 4), generator)
        memory.offer(_examples(4, 6), generator)
        for example in memory.examples:
            kept[example.input_ids[0]] += 1
    # sd of a share is sqrt(0.3 * 0.7 / 4000) = 0.007
    assert (kept / 4000 - 0.3).abs().max() < 0.03


def test_a_balanced_memory_gives_each_experience_the_same_part():
    memory, generator = ExampleMemory(12, "balanced"), random.Random(0)
    for index, (count, parts) in enumerate(
        [(30, [12]), (2, [6, 2]), (30, [4, 2, 4]), (30, [3, 2, 3, 3])]
    ):
        memory.offer(_examples(100 * index, count), generator)
        owners = [example.input_ids[0] // 100 for example in memory.examples]
        assert [owners.count(i) for i in range(index + 1)] == parts
    again = ExampleMemory(12, "balanced")
    again.load_state_dict(memory.state_dict())
    for each in (memory, again):
        each.offer(_examples(900, 9), random.Random(5))
    assert again.examples == memory.examples


def test_a_memory_keeps_the_weights_of_its_examples():
    memory, again = ExampleMemory(3), ExampleMemory(3)
    memory.offer([replace(e, weight=1 / (1 + i)) for i, e in enumerate(_examples(0, 3))], None)
    again.load_state_dict(memory.state_dict())
    assert [example.weight for example in again.examples] == [1.0, 1 / 2, 1 / 3]
    assert again.examples == memory.examples


def test_an_empty_memory_has_a_state():
    memory = ExampleMemory(3)
    again = ExampleMemory(3)
    again.load_state_dict(memory.state_dict())
    assert again.examples == []


def _project(gradient, reference):
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2))
    model.w.grad = torch.tensor(gradient)
    strategy = create_strategy("agem", {})
    strategy._memory.examples = _examples(0, 1)
    strategy.context = SimpleNamespace(
        generator=random.Random,
        batches=lambda examples, size: iter([None]),
        loss=lambda model, batch: (model.w * torch.tensor(reference)).sum(),
    )
    strategy.gradients_ready(SimpleNamespace(model=model, number=1))
    return model.w.grad.tolist(), strategy.diagnostics()["projected_steps"]


def test_agem_by_hand():
    assert _project([1.0, -1.0], [0.0, 1.0]) == ([1.0, 0.0], 1.0)
    assert _project([1.0, 1.0], [0.0, 1.0]) == ([1.0, 1.0], 0.0)
    assert _project([3.0, -1.0], [1.0, 4.0]) == (pytest.approx([3 + 1 / 17, -1 + 4 / 17]), 1.0)


@pytest.mark.parametrize("name", ["agem", "der"])
def test_the_first_experience_is_full_fine_tuning(name):
    weights = []
    for each in (name, "full_sft"):
        with own_numerics():
            loop = toy_loop(create_strategy(each, {}))
            loop.train(toy_tasks()[0])
        weights.append([p.detach() for p in loop.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def _with_memory(**options):
    strategy = create_strategy("der", {"memory_size": 6, **options})
    loop = toy_loop(strategy)
    loop.train(toy_tasks()[0])
    return strategy, loop


@pytest.mark.parametrize("top", [4, 1000])
def test_der_is_zero_for_the_same_model(top):
    with own_numerics():
        strategy, loop = _with_memory(beta=0.0, top=top)
        assert strategy.penalty(loop.model).item() == pytest.approx(0.0, abs=1e-6)


def test_der_over_the_whole_vocabulary_is_the_divergence():
    with own_numerics():
        strategy, loop = _with_memory(alpha=1.0, beta=0.0, top=1000)
        examples = strategy._draw("predictions")
        then = [t.detach() for t in strategy._log_probabilities(loop.model, examples)]
        with torch.no_grad():
            for parameter in loop.model.parameters():
                parameter.mul_(1.1)
        now = strategy._log_probabilities(loop.model, examples)
        expected = nn.functional.kl_div(
            torch.cat(now), torch.cat(then), log_target=True, reduction="batchmean"
        )
        assert strategy.penalty(loop.model).item() == pytest.approx(expected.item(), rel=1e-4)
        few, _ = _with_memory(alpha=1.0, beta=0.0, top=3)
        few.context = strategy.context
        assert 0 < few.penalty(loop.model).item() <= expected.item()


def test_der_without_its_divergence_is_the_loss_of_a_batch_of_the_memory():
    with own_numerics():
        strategy, loop = _with_memory(alpha=0.0, beta=2.0)
        (batch,) = strategy.context.batches(strategy._draw("labels"), 8)
        expected = 2 * strategy.context.loss(loop.model, batch)
        assert strategy.penalty(loop.model).item() == expected.item()


def test_the_rest_of_a_distribution():
    found = with_rest(torch.tensor([[0.5, 0.25], [1.0, 0.0]]).log())
    assert found.exp().flatten().tolist() == pytest.approx(
        [0.5, 0.25, 0.25, 1.0, 0.0, 0.0], abs=2e-6
    )
    assert not found.isnan().any()


@pytest.mark.parametrize(
    ("name", "option"), [("agem", "batch_size"), ("agem", "memory_size"), ("der", "top")]
)
def test_options_out_of_range_are_refused(name, option):
    with pytest.raises(UserError, match=f"{name}: {option}=0"):
        create_strategy(name, {option: 0})
