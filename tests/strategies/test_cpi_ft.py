"""Core parameter isolation: trials, cores, groups, fusion, stages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.strategies.cpi_ft import Fusion, grouped, jaccard
from epi_bench.strategy.interpolation import spherical_interpolation
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_cores_and_their_overlap_by_hand():
    """theta_0 = 0, theta_1 = (4, 0, 1, 0), theta_2 = (3, 0, 0, 2) in two tensors, half of them."""
    parameters = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))}
    fusion = Fusion(parameters)
    trials = [((4.0, 0.0), (1.0, 0.0)), ((3.0, 0.0), (0.0, 2.0))]
    cores = [fusion.add({"a": torch.tensor(a), "b": torch.tensor(b)}, 0.5) for a, b in trials]
    found = [{name: positions.tolist() for name, positions in core.items()} for core in cores]
    assert found == [{"a": [0], "b": [0]}, {"a": [0], "b": [1]}]
    assert jaccard(*cores) == pytest.approx(1 / 3)
    assert grouped(cores, 1 / 3)[0] == [0, 0]
    assert grouped(cores, 0.34)[0] == [0, 1]
    fusion.write()
    assert parameters["a"].tolist() == [4, 0]  # changed most by the first
    assert parameters["b"].tolist() == [1, 2]  # each core its own


def test_groups_are_connected_through_others():
    cores = [{"w": torch.tensor(core)} for core in ([0, 1], [8, 9], [1, 2], [2, 3], [9, 10])]
    assert grouped(cores, 0.3)[0] == [0, 1, 0, 0, 1]
    assert grouped(cores, 0.4)[0] == [0, 1, 2, 3, 4]
    assert grouped(cores, 0.0)[0] == [0] * 5


def test_what_is_no_core_is_the_spherical_mean_of_all_trials():
    """Three vectors at 0, 90 and 90 degrees of the same length: a third of the way to the first."""
    parameters = {"w": nn.Parameter(torch.zeros(3))}
    fusion = Fusion(parameters)
    for trial in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)):
        fusion.add({"w": torch.tensor(trial)}, 0.1)  # a core of no weight
    fusion.write()
    # half the arc of 90 degrees, then a third of the 45 degrees that are left
    angle = math.radians(45 + 15)
    assert parameters["w"].tolist() == pytest.approx(
        [math.cos(angle), math.sin(angle), 0], abs=1e-6
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_spherical_interpolation_of_parallel_vectors_is_linear(share):
    start, end = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    found = spherical_interpolation(start, end, share, 1e-3)
    assert torch.allclose(found, torch.lerp(start, end, share))
    opposite = spherical_interpolation(start, -end, share, 1e-3)
    assert torch.allclose(opposite, torch.lerp(start, -end, share))
    none = spherical_interpolation(torch.zeros(2), end, share, 1e-3)
    assert torch.allclose(none, share * end)


def test_the_core_of_an_earlier_task_does_not_move():
    with own_numerics():
        strategy = create_strategy("cpi_ft", {"share": 0.2, "overlap": 1.0})
        loop = toy_loop(strategy, training={"weight_decay": 0.1})
        first, second = toy_tasks()
        loop.train(first)
        before = _weights(loop.model)
        loop.train(second)
    size = moved_elsewhere = held = 0
    for name, weight in _weights(loop.model).items():
        core = torch.zeros(weight.numel(), dtype=torch.bool)
        core[strategy._cores[0][name].long()] = True
        core = core.view(weight.shape)
        assert torch.equal(weight[core], before[name][core]), name
        moved_elsewhere += int((weight != before[name])[~core].sum())
        held, size = held + int(core.sum()), size + weight.numel()
    assert held == math.floor(0.2 * size)
    assert moved_elsewhere > 0.5 * (size - held)
    assert strategy.diagnostics()["groups"] == 2
    assert strategy.diagnostics()["achieved_ratio"] == pytest.approx(0.2, abs=1e-3)


def test_tasks_of_one_group_are_trained_in_full():
    with own_numerics():
        strategy = create_strategy("cpi_ft", {"share": 0.2, "overlap": 0.0})
        loop = toy_loop(strategy)
        for experience in toy_tasks():
            loop.train(experience)
    assert strategy.diagnostics()["groups"] == 1
    assert strategy.diagnostics()["achieved_ratio"] == 0


def test_a_stage_may_train_a_sample():
    strategy = create_strategy("cpi_ft", {"stage_examples": 5})
    toy_loop(strategy)
    experience = toy_tasks()[0]
    sample = strategy.training_examples(experience)
    assert len(set(sample)) == 5
    assert set(sample) <= set(experience.examples)
    assert sample == strategy.training_examples(experience)


def test_a_record_says_that_it_sees_all_tasks(run_toy):
    record = run_toy("cpi_ft", {"share": 0.1}, steps=2).record
    assert record.status == "finished"
    assert record.strategy.sees_all_tasks
    assert record.cost.extra_tokens > 0
    assert not run_toy("full_sft", steps=2).record.strategy.sees_all_tasks


def test_a_strategy_that_does_not_say_so_sees_no_other_task():
    loop = toy_loop(create_strategy("full_sft", {}))
    with pytest.raises(UserError, match="whose needs name 'all tasks'"):
        len(loop.context.experiences)


@pytest.mark.parametrize(
    "options",
    [{"share": 0.0}, {"overlap": 1.1}, {"probe": 0.0}, {"stage_examples": -1}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"cpi_ft: {next(iter(options))}="):
        create_strategy("cpi_ft", options)
