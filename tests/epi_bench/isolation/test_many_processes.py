"""Data-parallel and sharded training: the mask and the weights of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.multi_process, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("several_processes.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


class Runs:
    """What one process and two processes came to."""

    def __init__(self, one: Path, two: Path) -> None:
        self._one, self._two = one, two

    def one(self, case):
        """The tensors of the run in one process."""
        return load_file(self._one / f"{case}.0.safetensors")

    def two(self, case):
        """The tensors of each of two processes."""
        return [load_file(self._two / f"{case}.{rank}.safetensors") for rank in (0, 1)]

    def together(self, case):
        """The parts of both processes put together: rows lie in the order of the processes."""
        first, second = self.two(case)
        return {
            name: tensor if name.startswith("#") else torch.cat([tensor, second[name]])
            for name, tensor in first.items()
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = []
    for command in ([sys.executable], TORCHRUN):
        folder = tmp_path_factory.mktemp("processes")
        done = subprocess.run(
            [*command, str(SCRIPT), str(folder)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        folders.append(folder)
    return Runs(*folders)


@pytest.mark.parametrize("normalisation", ["mean", "rank", "min_max"])
def test_equal_gradients_give_exactly_the_mask_of_one_process(runs, normalisation):
    one, two = runs.one(f"equal_{normalisation}"), runs.together(f"equal_{normalisation}")
    assert one.keys() == two.keys()
    for name, mask in one.items():
        assert torch.equal(mask, two[name]), name
    count = sum(int(mask.sum()) for name, mask in two.items() if not name.startswith("#"))
    assert count == int(two["#count"])
    size = sum(mask.numel() for name, mask in two.items() if not name.startswith("#"))
    assert count == round(0.37 * size)


def test_every_process_learns_of_a_gradient_that_is_not_finite(runs):
    for tensors in runs.two("poisoned"):
        assert not tensors.pop("#taken")
        assert all(not value.any() for value in tensors.values())


@pytest.mark.parametrize("case", ["sharded_ema", "sharded_factored", "sharded_optimizer"])
def test_sharded_training_gives_the_weights_of_one_process(runs, case):
    one, two = runs.one(case), runs.together(case)
    assert not one["#moved"]
    assert not any(tensors["#moved"] for tensors in runs.two(case))
    for name, tensor in one.items():
        if name.startswith("mask."):
            assert torch.equal(tensor, two[name]), name
        else:
            assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-6), name


def test_a_process_may_hold_nothing_of_a_parameter(runs):
    first, second = runs.two("sharded_ema")
    assert first["head.weight"].shape == (1, 7)
    assert second["head.weight"].shape == (0, 7)
    assert second["mask.head.weight"].numel() == 0


def test_data_parallel_training_gives_the_mask_and_weights_of_one_process(runs):
    one = runs.one("replicated")
    for two in runs.two("replicated"):
        assert not two["#moved"]
        for name, tensor in one.items():
            if name.startswith("mask."):
                assert torch.equal(tensor, two[name]), name
            else:
                assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("case", ["sharded", "replicated"])
def test_interrupted_equals_uninterrupted(runs, case):
    uninterrupted = "sharded_ema" if case == "sharded" else case
    for whole, resumed in zip(runs.two(uninterrupted), runs.two(f"{case}_resumed"), strict=True):
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, resumed[name]), name


def test_each_process_saves_and_loads_its_part_in_the_trainer(runs):
    one, two = runs.one("callback"), runs.together("callback")
    for rank, tensors in enumerate(runs.two("callback")):
        assert tensors["#same"]
        assert tensors["#refused"]
        assert tensors["#mine"] == rank
    for name in (name for name in one if name.startswith("mask.")):
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("strategy", ["full_sft", "epi"])
def test_the_training_loop_in_two_processes_equals_accumulation_in_one(runs, strategy):
    one = runs.one(f"loop_{strategy}")
    for two in runs.two(f"loop_{strategy}"):
        for name, tensor in one.items():
            if name.startswith("mask."):
                assert torch.equal(tensor, two[name]), name
            else:
                assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-5), name
    assert any(name.startswith("mask.") for name in one) == (strategy == "epi")
