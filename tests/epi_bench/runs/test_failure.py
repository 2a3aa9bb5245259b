"""Where memory runs out, the record says how large things are and what to lower."""

from __future__ import annotations

import errno

import pytest
import torch

from epi_bench.runs.failure import explain_failure, ran_out_of_memory
from epi_bench.spec.defaults import complete_spec

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error",
    [
        CPU,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=["cpu", "cuda", "python", "system", "mps"],
)
def test_every_kind_of_full_memory_is_recognised(error):
    assert ran_out_of_memory(error)
    wrapped = ValueError("scoring failed")
    wrapped.__cause__ = error
    assert ran_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("out of memory"), OSError(28)])
def test_other_failures_are_told_as_they_are(error):
    assert not ran_out_of_memory(error)
    told = explain_failure(error, complete_spec({}), torch.nn.Linear(2, 2))
    assert told.startswith(type(error).__name__)


def test_the_sizes_are_those_of_the_run():
    spec = complete_spec(
        {"training": {"steps": 1, "batch_size": 6}, "data": {"max_length": 96},
         "evaluation": {"batch_size": 17}}
    )  # fmt: skip
    model = torch.nn.Linear(1024, 1024, bias=False)  # 4 MB
    told = explain_failure(CPU, spec, model)
    assert "micro-batches of 6 x 96 tokens, scoring 17 at once" in told
    assert "the model takes 4.0 MB, its gradients 4.0 MB, the state of adamw 8.0 MB" in told
    assert "lower training.batch_size" in told
    assert "DefaultCPUAllocator" in told
    assert "\n" not in told


def test_a_run_without_memory_fails_with_the_remedy(run_toy, monkeypatch):
    from epi_bench.training.loop import TrainingLoop

    def fails(*_arguments, **_keywords):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingLoop, "train", fails)
    record = run_toy(steps=2).record
    assert record.status == "failed"
    assert record.error.startswith("out of memory: micro-batches of 8 x 64 tokens")
