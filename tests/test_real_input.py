"""A pre-trained model and published data sets, from start to record."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import expand, run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec

REAL_TASKS = ("gsm8k", "code_alpaca", "ultrachat")


@pytest.mark.real_data
def test_published_data_sets_on_the_toy_model(real_data, toy_model, tmp_path):
    # The longest prompt and all that is generated after it must fit into the model's positions.
    model = shutil.copytree(toy_model, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 1024}))
    spec = complete_spec(
        {
            "model": {"name": str(model)},
            "data": {
                "tasks": REAL_TASKS, "train_examples": 16, "test_examples": 2, "max_length": 250,
            },
            "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
            "evaluation": {"probe_examples": 2},
            "threads": 1,
        }
    )  # fmt: skip
    request = RunRequest(Workspace(tmp_path), data_dir=real_data)
    outcome = next(run_in_process([spec], request, RunObserver()))
    assert outcome.succeeded, outcome.error or outcome.record.error
    assert [column.task for column in outcome.record.score_matrix.columns] == list(REAL_TASKS)
    assert "reference_negative_log_likelihood" in outcome.record.secondary_scores["ultrachat"]


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.real_data
def test_a_gguf_model_learns_and_is_saved_for_transformers(real_data, tmp_path):
    from transformers import AutoModelForCausalLM

    given = os.environ.get("EPI_BENCH_TEST_MODEL")
    if not given or not Path(given).is_file():
        pytest.skip("EPI_BENCH_TEST_MODEL names no .gguf file of a small chat model")
    text = tmp_path / "text.txt"  # of the shipped one, scoring takes longer than training
    text.write_text("The quick brown fox jumps over the lazy dog. " * 10)
    spec = complete_spec(
        {
            # Not bfloat16: minutes on processors without instructions for it.
            "model": {"name": given, "dtype": "float32"},
            "data": {
                "tasks": ["gsm8k"], "train_examples": 4, "test_examples": 1, "max_length": 96,
                "general_text": str(text),
            },
            # Four examples, four a step: every loss is on the same batch.
            "training": {"steps": 4, "batch_size": 4, "learning_rate": 1e-4, "warmup_share": 0.0},
            # Scoring is not what is tried here: a few tokens of an answer are enough.
            "evaluation": {"probe_examples": 0, "kl_examples": 0, "max_new_tokens": 8},
        }
    )  # fmt: skip
    request = RunRequest(Workspace(tmp_path), data_dir=real_data, save_model=tmp_path / "model")
    losses = []

    class Losses(RunObserver):
        def step_done(self, report):
            losses.append(report.loss)

    outcomes = list(run_in_process(expand(spec, {"epi": {"warmup": 1, "interval": 1}}, [0]),
                                   request, Losses()))  # fmt: skip
    assert outcomes[0].succeeded, outcomes[0].error or outcomes[0].record.error
    assert losses[-1] < losses[0], losses
    statistics = outcomes[0].record.mask_statistics[-1].values
    assert statistics["achieved_ratio"] == pytest.approx(0.5, rel=1e-3)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
