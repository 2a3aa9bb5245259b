"""The examples of ``docs/bridges.md`` run as they stand, against the real libraries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

PAGE = Path(__file__).parents[3] / "docs" / "bridges.md"


def _run(marker, **names):
    found = re.search(
        rf"<!-- test: {marker} -->\n```python\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found, f"{PAGE.name} has no block marked {marker!r}"
    exec(compile(found.group(1), f"{PAGE.name}, {marker}", "exec"), names)
    return names


def _token_ids(rows):
    return torch.randint(0, 64, (rows, 8), generator=torch.Generator().manual_seed(0))


def _arguments(cls, folder, **settings):
    return cls(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, **settings,
    )  # fmt: skip


def _last_ratio(trainer):
    return [e for e in trainer.state.log_history if "loss" in e][-1]["epi_achieved_ratio"]


def test_a_strategy_in_a_trainer(tiny_llama, tmp_path):
    from transformers import TrainingArguments

    rows = [{"input_ids": ids, "labels": ids} for ids in _token_ids(16)]
    trainer = _run(
        "strategy",
        model=tiny_llama(),
        arguments=_arguments(TrainingArguments, tmp_path),
        first_rows=rows[:8],
        second_rows=rows[8:],
        folder=tmp_path / "model",
    )["trainer"]
    last = [e for e in trainer.state.log_history if "loss" in e][-1]
    assert 0 < last["strategy_similarity_0"] <= 1
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_strategy_that_protects_the_base(toy_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    trainer = _run(
        "protect base",
        model=AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(toy_model),
        arguments=_arguments(TrainingArguments, tmp_path),
        rows=[{"input_ids": ids, "labels": ids} for ids in _token_ids(8)],
    )["trainer"]
    last = [e for e in trainer.state.log_history if "loss" in e][-1]
    assert 0 < last["strategy_similarity_0"] <= 1


def test_a_strategy_in_a_loop_of_ones_own(tiny_llama):
    rows = [{"input_ids": ids, "labels": ids} for ids in _token_ids(16)]
    protection = _run(
        "strategy loop",
        model=tiny_llama(),
        stream=[("first", rows[:8]), ("second", rows[8:])],
        batches_of=lambda rows: [
            {key: torch.stack([row[key] for row in rows[start : start + 4]]) for key in rows[0]}
            for start in (0, 4)
        ],
    )["protection"]
    assert protection.statistics()["steps"] == 4
    assert 0 < protection.statistics()["similarity_0"] <= 1


def test_a_loop_of_ones_own(tiny_llama, capsys):
    batches = [{"input_ids": ids, "labels": ids} for ids in _token_ids(8).split(2)]
    protection = _run("loop", model=tiny_llama(), batches=batches)["protection"]
    assert protection.statistics()["steps"] == 4
    assert protection.isolation.protected_count == protection.isolation.target_count
    assert "'refreshes': 2.0" in capsys.readouterr().out


def test_trainer(tiny_llama, tmp_path):
    from transformers import TrainingArguments

    rows = [{"input_ids": ids, "labels": ids} for ids in _token_ids(8)]
    arguments = _arguments(TrainingArguments, tmp_path)
    trainer = _run("trainer", model=tiny_llama(), arguments=arguments, rows=rows)["trainer"]
    assert _last_ratio(trainer) == pytest.approx(0.3, rel=1e-3)


def test_trl(toy_model, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = {"role": "user", "content": "copy red"}
    conversation = {"messages": [asked, {"role": "assistant", "content": "red"}]}
    trainer = _run(
        "trl",
        model=AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32),
        arguments=_arguments(trl.SFTConfig, tmp_path, bf16=False, gradient_checkpointing=False),
        conversations=Dataset.from_list([conversation] * 8),
        tokenizer=AutoTokenizer.from_pretrained(toy_model),
    )["trainer"]
    assert _last_ratio(trainer) == pytest.approx(0.3, rel=1e-3)


def test_streams_for_avalanche(tiny_llama):
    pytest.importorskip("avalanche")
    rows = [{"input_ids": ids, "labels": ids} for ids in _token_ids(8)]
    model = tiny_llama()
    before = [parameter.clone() for parameter in model.parameters()]
    strategy = _run(
        "avalanche stream",
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        stream={"first": rows[:4], "second": rows[4:]},
    )["strategy"]
    assert strategy.clock.train_exp_counter == 2
    assert any(not a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


def test_avalanche():
    pytest.importorskip("avalanche")
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    rows = TensorDataset(torch.randn(12, 6), torch.arange(12) % 3)
    rows.targets = [label % 3 for label in range(12)]
    stream = [as_classification_dataset(rows)] * 2
    model = nn.Linear(6, 3)
    epi = _run(
        "avalanche",
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), weight_decay=0.1),
        criterion=nn.CrossEntropyLoss(),
        benchmark=benchmark_from_datasets(train=stream, test=stream),
    )["epi"]
    assert epi.statistics()["steps"] == 6
