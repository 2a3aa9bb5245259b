"""``EPICallback`` inside the real ``transformers.Trainer`` and TRL's ``SFTTrainer``."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from epi_bench import UserError
from epi_bench.bridges import EPICallback
from epi_bench.bridges.trainer import STATE_FILE

SCHEDULE = {"ratio": 0.3, "interval": 2, "warmup": 1}


class _Watch(TrainerCallback):
    """Checks after each optimizer step, before the next one."""

    def __init__(self, callback, witness):
        self.callback, self.make, self.witness = callback, witness, None

    def on_train_begin(self, *args, **kwargs):
        self.witness = self.make(self.callback.protection.isolation)

    def on_step_end(self, *args, **kwargs):
        self.witness.check()


def _rows(count=24):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (count, 12), generator=generator)
    return [{"input_ids": row, "labels": row, "attention_mask": torch.ones(12)} for row in ids]


def _arguments(folder, **settings):
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "weight_decay": 0.5,
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 2,
            "disable_tqdm": True,
            **settings,
        }
    )


def _trainer(model, folder, *callbacks, **settings):
    return Trainer(model, _arguments(folder, **settings), train_dataset=_rows(),
                   callbacks=list(callbacks))  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor"])
def test_protected_weights_are_bit_identical(
    optimizer, accumulation, tiny_llama, witness, tmp_path
):
    epi = EPICallback(**SCHEDULE)
    watch = _Watch(epi, witness)
    settings = {"optim": optimizer, "gradient_accumulation_steps": accumulation}
    _trainer(tiny_llama(), tmp_path, epi, watch, **settings).train()
    assert epi.protection.steps == 6
    assert epi.protection.refreshes == 3
    assert watch.witness.checked == 5 * epi.protection.isolation.target_count
    assert not epi.protection.active


def test_statistics_join_the_log(tiny_llama, tmp_path):
    trainer = _trainer(tiny_llama(), tmp_path, EPICallback(**SCHEDULE))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["epi_steps"] for entry in entries] == [2, 4, 6]
    assert [entry["epi_refreshes"] for entry in entries] == [1, 2, 3]
    assert entries[-1]["epi_achieved_ratio"] == pytest.approx(0.3, rel=1e-3)
    assert 0 < entries[-1]["epi_jaccard_previous"] <= 1
    assert "epi_steps" not in trainer.state.log_history[-1]  # the summary at the end


def test_resuming_a_checkpoint_goes_on_exactly(tiny_llama, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole, resumed = EPICallback(**SCHEDULE), EPICallback(**SCHEDULE)
    straight = _trainer(tiny_llama(), tmp_path, whole, **saving)
    straight.train()
    saved = load_file(tmp_path / "checkpoint-4" / STATE_FILE)
    assert int(saved["bridge.steps"]) == 4

    again = _trainer(tiny_llama(), tmp_path, resumed, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for one, other in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.protection.statistics() == whole.protection.statistics()
    assert resumed.protection.steps == 6


def test_a_checkpoint_that_lies_elsewhere_can_be_named(tiny_llama, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    _trainer(tiny_llama(), tmp_path / "first", EPICallback(**SCHEDULE), **saving).train()
    checkpoint = str(tmp_path / "first" / "checkpoint-3")
    with pytest.raises(UserError, match="give EPICallback"):
        _trainer(tiny_llama(), tmp_path / "second", EPICallback(**SCHEDULE)).train(checkpoint)
    for callback, settings in (
        (EPICallback(**SCHEDULE, resume_from=checkpoint), {}),
        (EPICallback(**SCHEDULE), {"resume_from_checkpoint": checkpoint}),
    ):
        _trainer(tiny_llama(), tmp_path / "second", callback, **settings).train(checkpoint)
        assert callback.protection.steps == 6


def test_a_callback_goes_on_with_the_next_trainer_of_the_same_model(tiny_llama, tmp_path, witness):
    model, epi = tiny_llama(), EPICallback(**SCHEDULE)
    _trainer(model, tmp_path, epi).train()
    first = epi.protection
    _trainer(model, tmp_path, epi, _Watch(epi, witness)).train()
    assert epi.protection is first
    assert first.steps == 12
    _trainer(tiny_llama(), tmp_path, epi, max_steps=1).train()
    assert epi.protection is not first


def test_the_best_model_that_is_loaded_back_is_what_the_next_trainer_holds(tiny_llama, tmp_path):
    model, epi = tiny_llama(), EPICallback(**SCHEDULE)
    best = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
        "greater_is_better": True, "learning_rate": 0.05, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = Trainer(model, _arguments(tmp_path, **best), train_dataset=_rows(),
                      eval_dataset=_rows(4), callbacks=[epi])  # fmt: skip
    trainer.train()
    loaded = {name: p.detach().clone() for name, p in model.named_parameters()}
    saved = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert torch.equal(loaded["model.norm.weight"], saved["model.norm.weight"])
    _trainer(model, tmp_path, epi, max_steps=1, learning_rate=0.0).train()
    assert all(torch.equal(p, loaded[name]) for name, p in model.named_parameters())
    assert trainer.state.best_global_step < 6
    assert epi.protection.taken_up > 0


def test_the_checkpoint_of_another_run_is_refused(tiny_llama, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    mine, other = tmp_path / "mine", tmp_path / "other"
    _trainer(tiny_llama(), mine, EPICallback(**SCHEDULE), max_steps=3, **saving).train()
    _trainer(tiny_llama(), other, EPICallback(**SCHEDULE), seed=1, max_steps=3, **saving).train()
    checkpoint = str(mine / "checkpoint-3")
    with pytest.raises(UserError, match=r"other.checkpoint-3.*other weights.*resume_from="):
        _trainer(tiny_llama(), other, EPICallback(**SCHEDULE)).train(checkpoint)
    named = EPICallback(**SCHEDULE, resume_from=checkpoint)
    _trainer(tiny_llama(), other, named).train(checkpoint)
    assert named.protection.steps == 6


@pytest.mark.parametrize(("warmup", "warned"), [(5, False), (6, True), (20, True)])
def test_a_warmup_that_the_training_does_not_outlast_is_told(warmup, warned, tiny_llama, tmp_path):
    epi = EPICallback(ratio=0.3, warmup=warmup)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _trainer(tiny_llama(), tmp_path, epi).train()
    texts = [str(w.message) for w in told if "EPICallback protects nothing" in str(w.message)]
    assert len(texts) == warned
    if warned:
        assert f"{warmup} steps to go, and the training 6" in texts[0]


def test_ratio_zero_trains_as_without_the_callback(tiny_llama, tmp_path):
    with_callback, without = (
        _trainer(tiny_llama(), tmp_path, *callbacks) for callbacks in ([EPICallback(ratio=0)], [])
    )
    for trainer in (with_callback, without):
        trainer.train()
    pairs = zip(with_callback.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_supervised_fine_tuning_with_trl(accumulation, toy_model, witness, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = ["red", "green", "blue", "one", "two", "three"]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"copy {word}"},
                {"role": "assistant", "content": word},
            ]
        }
        for word in words * 2
    ]
    settings = {
        "output_dir": str(tmp_path), "max_steps": 4, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation, "learning_rate": 1e-2, "weight_decay": 0.5,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [],
        "save_strategy": "no", "logging_steps": 2, "disable_tqdm": True,
        "assistant_only_loss": True, "max_length": 64,
    }  # fmt: skip
    epi = EPICallback(**SCHEDULE)
    watch = _Watch(epi, witness)
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32),
        args=trl.SFTConfig(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(toy_model),
        callbacks=[epi, watch],
    )
    trainer.train()
    assert epi.protection.steps == 4
    assert watch.witness.checked == 3 * epi.protection.isolation.target_count
    assert any("epi_achieved_ratio" in entry for entry in trainer.state.log_history)
