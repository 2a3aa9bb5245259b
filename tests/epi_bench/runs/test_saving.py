"""Models that runs keep: what transformers and peft load again is what was scored."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.files import written_into
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs import saving
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.runs.saving import KeepModel, ModelKeeper, kept_names

EVERY = {"keep_model": KeepModel.EVERY_EXPERIENCE}
FINAL = {"keep_model": KeepModel.FINAL}


class Listener(RunObserver):
    def __init__(self):
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (KeepModel.NONE, ()),
        (KeepModel.FINAL, ("final",)),
        (KeepModel.EVERY_EXPERIENCE, ("01-a", "02-..-..-b", "03-experience", "final")),
    ],
)
def test_names_of_models_are_names_of_folders(keep, names):
    assert kept_names(keep, ["a", "../../b", "é/ü", "c"]) == names
    assert max(map(len, kept_names(keep, ["x" * 300, "c"])), default=0) < 80


@pytest.fixture(scope="module")
def logits_of(toy_model):
    ids = torch.arange(24).reshape(2, 12)

    def compute(model):
        with torch.no_grad():
            return model.eval()(input_ids=ids).logits

    return compute


def test_every_experience_is_a_model_that_scores_as_its_row_says(run_toy, toy_spec, tmp_path):
    """Each is loaded as the model of another run: its base row is the row it was kept after."""
    plain = run_toy(steps=2, out=tmp_path / "plain").record
    outcome = run_toy(steps=2, request=EVERY)
    assert comparable(outcome.record) == comparable(plain)
    models = outcome.path.parent / "models"
    first = outcome.record.experiences[0].name
    assert sorted(path.name for path in models.iterdir()) == [f"01-{first}", "final"]
    for name, row in ((f"01-{first}", 1), ("final", 2)):
        spec = toy_spec(steps=1)
        model = spec.model.model_copy(update={"name": str(models / name)})
        spec = spec.model_copy(update={"model": model})
        again = run_one(spec, RunRequest(Workspace(tmp_path / name)), RunObserver()).record
        assert again.score_matrix.values[0] == outcome.record.score_matrix.values[row]


@pytest.mark.parametrize(
    ("dtype", "variant"),
    [
        ("float32", "plain"),
        ("float32", "dora"),
        ("float32", "pissa"),
        ("float32", "adalora"),
        ("bfloat16", "plain"),
    ],
)
def test_an_adapter_is_kept_as_an_adapter_too(run_toy, toy_model, logits_of, dtype, variant):
    """It fits the model that the run began with, even where its first values came from there."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    options = {"rank": 2, "variant": variant}
    outcome = run_toy("lora", options, dtype=dtype, steps=2, request=EVERY)
    folder = outcome.path.parent
    names = sorted(path.name for path in (folder / "models").iterdir())
    assert names == sorted(path.name for path in (folder / "adapters").iterdir())
    assert len(names) == 2
    seen = []
    for name in names:
        whole = load(folder / "models" / name, dtype=dtype)
        assert not any("lora" in parameter for parameter, _ in whole.named_parameters())
        base = load(toy_model, dtype=dtype)
        adapted = PeftModel.from_pretrained(base, folder / "adapters" / name)
        close = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.1, "atol": 0.05}
        torch.testing.assert_close(logits_of(adapted), logits_of(whole), **close)
        merged = adapted.merge_and_unload()
        for (_, ours), (_, theirs) in zip(
            sorted(whole.named_parameters()), sorted(merged.named_parameters()), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
        seen.append(logits_of(whole))
    assert not torch.equal(*seen)
    small = sum(p.stat().st_size for p in (folder / "adapters" / "final").iterdir())
    assert small < sum(p.stat().st_size for p in (folder / "models" / "final").iterdir())


def test_the_first_values_of_an_adapter_come_out_of_twice_the_rank(run_toy, logits_of):
    folder = run_toy("lora", {"rank": 2, "variant": "pissa"}, steps=2, request=FINAL).path.parent
    settings = json.loads((folder / "adapters/final/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (4, 64, True)


def test_an_adapter_over_changed_weights_is_not_kept_alone(run_toy):
    """On the model that the run began with it would be another adapter, and here an empty one."""
    listener = Listener()
    outcome = run_toy("inc_lora", {"rank": 2}, steps=2, request=EVERY, observer=listener)
    folder = outcome.path.parent
    told = [message for message in listener.warnings if "the adapter is not saved to" in message]
    assert len(told) == len([*(folder / "models").iterdir()]) == 2
    assert told[-1].endswith(f"{folder / 'models' / 'final'} is the whole model")
    assert not (folder / "adapters").exists()
    assert not outcome.unsaved


@pytest.mark.parametrize("variant", ["plain", "pissa"])
def test_keeping_models_changes_no_number(run_toy, tmp_path, variant):
    options = {"rank": 2, "variant": variant}
    plain = run_toy("lora", options, steps=2, out=tmp_path / "plain").record
    kept = run_toy("lora", options, steps=2, request=EVERY).record
    assert comparable(kept) == comparable(plain)


def test_a_finished_run_without_the_models_asked_for_is_made_again(run_toy):
    assert not run_toy(steps=1).skipped
    assert run_toy(steps=1).skipped
    assert not run_toy(steps=1, request=FINAL).skipped
    assert run_toy(steps=1, request=FINAL).skipped
    assert not run_toy(steps=1, request=EVERY).skipped
    assert run_toy(steps=1, request=FINAL).skipped


def test_a_model_that_cannot_be_written_costs_no_record(run_toy, monkeypatch, tmp_path):
    def full(model, backbone, folder):
        (folder / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_model", full)
    listener = Listener()
    request = {**FINAL, "save_model": tmp_path / "model"}
    outcome = run_toy(steps=1, request=request, observer=listener)
    assert load_record(outcome.path).status == "finished"
    places = [outcome.path.parent / "models" / "final", tmp_path / "model"]
    problems = [f"the model was not saved to {p}: No space left on device" for p in places]
    assert list(outcome.unsaved) == problems
    assert [line for line in listener.warnings if "not saved" in line] == problems
    events = [json.loads(line) for line in (outcome.path.parent / "events.jsonl").open()]
    assert {"event": "warning", "message": problems[0]} in events
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(places[0].parent.iterdir())
    assert not list(places[1].iterdir())
    monkeypatch.undo()
    assert not run_toy(steps=1, request=FINAL).skipped  # the same command tries again


def test_files_of_ones_own_stay_in_the_folder_of_save_model(run_toy, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model" / "config.json").write_text("old")
    run_toy(steps=1, request={"save_model": tmp_path / "model"})
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


def test_a_disk_without_room_is_found_before_the_training(run_toy, monkeypatch, tmp_path):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(10**9, 10**9, 1000))
    for request, told in ((FINAL, "the models of keep_model"),
                          ({"save_model": tmp_path / "m"}, "the model of save_model")):  # fmt: skip
        with pytest.raises(UserError, match=f"{told} need 0.1 MB, but .* has 0.0 MB free"):
            run_toy(steps=1, request=request)
    assert not list(tmp_path.rglob("run.toml"))


def test_what_a_killed_run_left_behind_is_swept(tmp_path):
    keeper = ModelKeeper(tmp_path, KeepModel.FINAL, experiences=["a"])
    (tmp_path / "models" / ".final.0a1b.tmp").mkdir(parents=True)
    (tmp_path / "models" / "final").mkdir()
    keeper.sweep()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["final"]


def test_in_a_folder_of_the_user_nothing_else_is_swept(tmp_path):
    (tmp_path / ".mine.tmp").touch()
    writing = written_into(tmp_path)
    (writing.__enter__() / "config.json").touch()
    [left] = tmp_path.glob(".*/config.json")  # the writer is killed here
    ModelKeeper(tmp_path / "run", save_model=tmp_path).sweep()
    assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


def test_what_transformers_cannot_save_is_a_problem_and_no_error(tmp_path):
    keeper = ModelKeeper(tmp_path, KeepModel.FINAL, experiences=["a"])
    told = []
    keeper.begin(SimpleNamespace(model=torch.nn.Linear(1, 1)), told.append)
    keeper.keep_final(torch.nn.Linear(1, 1))
    assert keeper.problems == told
    [problem] = told
    assert "a Linear is no model of transformers" in problem
    assert not list((tmp_path / "models").iterdir())


def test_references_keep_no_models(tmp_path):
    from epi_bench.runs.request import for_references

    plain = RunRequest(Workspace(tmp_path))
    asked = replace(plain, keep_model=KeepModel.FINAL, save_model=tmp_path / "m")
    assert for_references(asked) == replace(plain, published=False)
