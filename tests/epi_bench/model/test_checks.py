"""A refused model: nothing is written, and the other runs go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import ModelSpec


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        (16, "the general text has 23 tokens"),
        (23, "a text of task 'toy_second' may take 24 tokens with its answer"),
    ],
)
def test_a_run_that_does_not_fit_writes_nothing(
    saved, toy_spec, tmp_path: Path, positions: int, told: str
):
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=positions, vocab_size=300
    )
    folder = saved(transformers.GPT2LMHeadModel(config))
    spec = toy_spec(tasks=["toy_second"])
    data = spec.data.model_copy(update={"max_length": 23})
    update = {"model": ModelSpec(name=str(folder)), "data": data}
    request = RunRequest(Workspace(tmp_path / "out"))
    outcomes = list(run_in_process([spec.model_copy(update=update)], request, RunObserver()))
    assert told in outcomes[0].error
    assert not (tmp_path / "out").exists()


def test_later_runs_are_tried_after_a_refused_model(
    folder: Path, toy_model: Path, toy_tasks, tmp_path: Path, change_tensors
):
    change_tensors(folder, lambda _: {f"t.{i}": torch.ones(9000) for i in range(9)})
    specs = [
        complete_spec(
            {
                "model": {"name": str(model)},
                "strategy": {"name": "full_sft"},
                "data": {"tasks": ["toy_first"], "max_length": 64},
                "training": {"steps": 1},
                "evaluation": {"probe_examples": 0},
            }
        )
        for model in (folder, tmp_path / "nowhere", toy_model)
    ]
    request = RunRequest(Workspace(tmp_path / "out"), references=True)
    first, second, third = run_in_process(specs, request, RunObserver())
    assert "which would be random" in first.error
    assert "does not exist" in second.error
    assert third.succeeded
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


def test_a_task_that_breaks_while_its_test_examples_are_encoded_leaves_a_record(
    run_toy, monkeypatch: pytest.MonkeyPatch
):
    def broken(prepared):
        raise ValueError("a plugin's fault")

    monkeypatch.setattr("epi_bench.runs.experiment.make_evaluator", broken)
    record = run_toy().record
    assert (record.status, record.error) == ("failed", "ValueError: a plugin's fault")
