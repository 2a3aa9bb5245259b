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
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategies.der import with_rest
from epi_bench.strategy.example_memory import ExampleMemory
from epi_bench.strategy.strategy import complete_strategy_options, create_strategy
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


def test_a_memory_by_loss_drops_what_is_known_best_and_keeps_the_largest_loss():
    losses = {0: 3.0, 1: 1.0, 2: 2.0}
    kept = torch.zeros(3)
    for seed in range(3000):
        memory = ExampleMemory(2, "loss")
        memory.offer(
            _examples(0, 3),
            random.Random(seed),
            lambda examples: [losses[e.input_ids[0]] for e in examples],
        )
        for example in memory.examples:
            kept[example.input_ids[0]] += 1
    # the third comes in with probability 2/3, always in the place of the second
    assert kept[0] == 3000
    assert kept[1] / 3000 == pytest.approx(1 / 3, abs=0.04)
    assert kept[2] / 3000 == pytest.approx(2 / 3, abs=0.04)


def test_a_memory_by_loss_measures_those_it_keeps_again():
    memory, asked = ExampleMemory(3, "loss"), []

    def losses(examples):
        asked.append([e.input_ids[0] for e in examples])
        return [1.0] * len(examples)

    memory.offer(_examples(0, 3), random.Random(0), losses)
    memory.offer(_examples(7, 2), random.Random(0), losses)
    assert asked == [[0, 1, 2], [0, 1, 2], [7, 8]]
    assert memory._offered == 5
    with pytest.raises(ValueError, match="must be given the losses"):
        memory.offer(_examples(9, 1), random.Random(0))


def test_replay_by_loss_takes_the_mean_a_token():
    with own_numerics():
        replay = create_strategy("replay", {"memory": "loss"})
        loop = toy_loop(replay)
        short = toy_tasks()[0].examples[0]
        (found,) = replay._losses([short])
        (batch,) = loop.context.batches([short], 1)
        assert found == pytest.approx(loop.context.loss(loop.model.eval(), batch).item(), rel=1e-5)


@pytest.mark.parametrize("source", ["general_text", "self"])
def test_other_text_is_replayed_from_the_first_experience_on(source):
    with own_numerics():
        replay = create_strategy("replay", {"source": source, "memory_size": 5, "share": 0.2})
        assert replay.acts_from == 0
        toy_loop(replay)
        replay.begin_training()
        texts = list(replay._memory.examples)
        first = toy_tasks()[0]
        found = replay.training_examples(first)
        replay.end_experience(first)
    assert 1 <= len(texts) <= 5
    assert list(found[:32]) == list(first.examples)
    assert len(found) == 40
    assert set(found[32:]) <= set(texts)
    assert replay._memory.examples == texts  # no old example comes in


def test_text_that_is_trained_and_reported_is_warned_of():
    spec = TrainingSpec(steps=1)
    (warning,) = create_strategy("replay", {"source": "general_text"}).check_run(spec, [1])
    assert "looks better than it would" in warning
    assert not create_strategy("replay", {"source": "self"}).check_run(spec, [1])


def test_options_that_came_later_are_no_options_of_earlier_runs():
    assert complete_strategy_options("replay", {}) == {"memory_size": 256, "share": 0.25}
