"""What is in an optimizer step, and how it is cut into micro-batches."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice, product
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epi_bench.model.batching import (
    collate,
    cut_by_padding,
    cut_evenly,
    drawn_steps,
    steps_a_pass,
)
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategies.replay import Replay
from epi_bench.training.context import TrainingContext
from epi_bench.training.schedule import steps_of

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(st.integers(1, 100), st.integers(1, 30), st.integers(0, 9))
def test_a_pass_holds_every_example_once_whatever_the_sizes(count, step_size, seed):
    steps = drawn_steps(count, step_size, random.Random(seed))
    for _ in range(3):
        a_pass = list(islice(steps, steps_a_pass(count, step_size)))
        assert sorted(position for step in a_pass for position in step) == list(range(count))
        assert all(len(step) == step_size for step in a_pass[:-1])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_one_epoch_is_one_pass(processes):
    """60 examples in steps of 7: once, 44 were drawn, some twice."""
    spec = TrainingSpec(epochs=1, batch_size=7)
    steps = drawn_steps(60, spec.examples_a_step(processes), random.Random(0))
    drawn = list(islice(steps, steps_of(60, 1.0, spec, processes)))
    seen = Counter(
        position
        for step in drawn
        for cuts in cut_evenly(step, [5] * 60, 7, processes)
        for cut in cuts
        for position in cut
    )
    assert seen == Counter(range(60))


def test_passes_differ_and_another_generator_draws_otherwise():
    first, second = islice(drawn_steps(50, 50, random.Random(0)), 2)
    assert first != second
    assert next(drawn_steps(50, 50, random.Random(1))) != first


def test_no_example_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        next(drawn_steps(0, 4, random.Random(0)))


@given(LENGTHS, st.integers(1, 7), st.integers(1, 4))
def test_processes_share_a_step_without_loss_or_overlap(lengths, batch_size, processes):
    positions = list(range(len(lengths)))
    shares = cut_evenly(positions, lengths, batch_size, processes)
    assert len(shares) == processes
    assert len({len(cuts) for cuts in shares}) == 1  # gradients cross processes in step
    sizes = [len(cut) for cuts in shares for cut in cuts]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(p for cuts in shares for cut in cuts for p in cut) == positions


def test_examples_of_like_length_share_a_micro_batch():
    assert cut_evenly([0, 1, 2, 3], [9, 2, 8, 3], 2) == [[[0, 2], [3, 1]]]
    assert cut_evenly([0, 1, 2, 3], [9, 2, 8, 3], 1, 2) == [[[0], [3]], [[2], [1]]]


def test_cuts_by_padding_by_hand():
    lengths = [10, 50, 11, 49]
    assert cut_by_padding(range(4), lengths, 4, split_cost=70) == [[1, 3], [2, 0]]  # saves 78
    assert cut_by_padding(range(4), lengths, 4, split_cost=80) == [[1, 3, 2, 0]]
    assert cut_by_padding(range(4), lengths, 1, split_cost=10_000) == [[1], [3], [2], [0]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 8), st.integers(0, 60))
def test_no_cut_costs_less(lengths, batch_size, split_cost):
    def cost(cuts):
        return sum(split_cost + len(cut) * max(lengths[p] for p in cut) for cut in cuts)

    chosen = cut_by_padding(range(len(lengths)), lengths, batch_size, split_cost)
    order = [position for cut in chosen for position in cut]
    assert [lengths[p] for p in order] == sorted(lengths, reverse=True)
    for borders in product([False, True], repeat=len(order) - 1):
        cuts = [[order[0]]]
        for position, border in zip(order[1:], borders, strict=True):
            if border:
                cuts.append([position])
            else:
                cuts[-1].append(position)
        if all(len(cut) <= batch_size for cut in cuts):
            assert cost(chosen) <= cost(cuts)


# ---- what is in a step, against chance ----------------------------------------------------------


def _owners(prepared, experience):
    owner = {id(e): name for name, task in prepared.tasks.items() for e in task.train}
    return [owner[id(example)] for example in experience.examples]


@pytest.fixture(scope="module")
def prepared_mini():
    from epi_bench.runs.preparation import prepare_run

    def prepare(kind="sequential", **options):
        stream = {"kind": kind, "options": options}
        return prepare_run(complete_spec({"stream": stream, "data": {"train_examples": 400}}))

    return prepare


@pytest.mark.parametrize("mixing", ["concat", "interleave_under", "interleave_over"])
def test_a_step_of_a_mixture_holds_the_tasks_that_chance_gives(prepared_mini, mixing):
    """The lengths of the mini tasks differ, which once put one task into a batch."""
    prepared = prepared_mini("mixed", mixing=mixing)
    owners = _owners(prepared, prepared.experiences[0])
    steps = list(islice(drawn_steps(len(owners), 20, random.Random(0)), 400))
    kinds = mean(len({owners[p] for p in step}) for step in steps)
    draws = random.Random("chance")
    chance = mean(len({*draws.sample(owners, 20)}) for _ in range(4000))
    assert chance > 4.9
    assert kinds == pytest.approx(chance, abs=0.05)
    assert not any(len({owners[p] for p in step}) == 1 for step in steps)


def test_weights_of_an_interleaved_mixture_hold_in_the_steps(prepared_mini):
    prepared = prepared_mini("mixed", mixing="interleave_over", weights=[6, 1, 1, 1, 1])
    owners = _owners(prepared, prepared.experiences[0])
    first = prepared.experiences[0].tasks[0]
    steps = list(islice(drawn_steps(len(owners), 20, random.Random(0)), len(owners) // 20))
    shares = [mean(owners[p] == first for p in step) for step in steps]
    assert mean(shares) == pytest.approx(0.6, abs=0.03)
    assert pstdev(shares) == pytest.approx((0.6 * 0.4 / 20) ** 0.5, rel=0.15)


def test_the_share_of_replayed_examples_is_that_of_chance(prepared_mini):
    """Share 0.25 in steps of 20: standard deviation 0.097, no old example in 0.3 % of them."""
    replay = Replay(memory_size=200, share=0.25)
    replay.context = TrainingContext(None, 0, None, 0, 10, 5)
    for experience in prepared_mini().experiences:
        examples = replay.training_examples(experience)
        own = set(map(id, experience.examples))
        old = [id(example) not in own for example in examples]
        if experience.index:
            steps = list(islice(drawn_steps(len(old), 20, random.Random(1)), 1000))
            shares = [mean(old[p] for p in step) for step in steps if len(step) == 20]
            assert mean(shares) == pytest.approx(0.25, abs=0.01)
            assert pstdev(shares) == pytest.approx((0.25 * 0.75 / 20) ** 0.5, rel=0.15)
            assert mean(share == 0 for share in shares) < 0.02
        replay.end_experience(experience)


def test_weights_of_examples_are_collated_where_there_are_any():
    plain = EncodedExample((1, 2), (False, True))
    assert "weight" not in collate([plain, plain], 0)
    batch = collate([plain, replace(plain, weight=0.25)], 0)
    assert batch["weight"].tolist() == [1.0, 0.25]
