"""Every file that a model can be changed by is part of its identity, and no other is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.model.load import load_backbone, load_tokenizer
from epi_bench.model.location import TOKENIZER_FILES, general_text, locate_model
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.spec.run_spec import ModelSpec


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    """A copy of the toy model."""
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


def fingerprint(folder: Path) -> str:
    return locate_model(ModelSpec(name=str(folder))).fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.4.0.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "dict.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "qwen.tiktoken",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "general_text.txt",
    ],
)
def test_a_changed_or_new_file_that_loading_reads_makes_another_model(folder: Path, name: str):
    path = folder / name
    before = fingerprint(folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(b" ")
    changed = fingerprint(folder)
    path.unlink()
    if name not in ("config.json", "model.safetensors"):
        assert changed not in (before, fingerprint(folder))
    assert changed != before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE.txt",
        ".gitattributes",
        "trainer_state.json",
        "pytorch_model.bin",
        "a.py",
    ],
)
def test_what_is_never_read_does_not_count(folder: Path, name: str):
    before = fingerprint(folder)
    (folder / name).write_text("{}")
    assert fingerprint(folder) == before


def test_tokenizers_of_transformers_read_no_file_that_does_not_count():
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    names = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    for kind in ("llama", "gpt2", "qwen2", "gemma", "bert", "t5", "opt", "xlm-roberta", "mbart"):
        classes = TOKENIZER_MAPPING_NAMES.get(kind)
        for name in (classes,) if isinstance(classes, str) else classes or ():
            names |= set(getattr(transformers, name or "").vocab_files_names.values())
    assert {"tokenizer.json", "merges.txt", "vocab.json"} <= names
    assert not [n for n in names if not any(Path(n).match(pattern) for pattern in TOKENIZER_FILES)]


def test_a_file_that_does_not_count_cannot_be_opened(folder: Path):
    (folder / "chat_template.jinja").unlink()
    location = locate_model(ModelSpec(name=str(folder)))
    (folder / "chat_template.jinja").write_text("added after the files were counted")
    (folder / "pytorch_model.bin").write_text("pickle")
    with location.opened() as view:
        seen = {path.relative_to(view) for path in view.rglob("*") if path.is_file()}
    assert seen == {path.relative_to(folder) for path in location.files}
    assert not view.exists()
    counted = locate_model(ModelSpec(name=str(folder)))
    assert "added after" not in (load_tokenizer(location).chat_template or "")
    assert "added after" in load_tokenizer(counted).chat_template


def test_a_loaded_model_knows_its_folder_and_not_the_temporary_one(folder: Path):
    backbone = load_backbone(ModelSpec(name=str(folder)))
    assert backbone.model.name_or_path == str(folder)
    assert backbone.model.config._name_or_path == str(folder)
    assert backbone.tokenizer.name_or_path == str(folder)


def test_a_gguf_file_counts_with_the_general_text_beside_it_alone(tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    before = locate_model(ModelSpec(name=str(path)))
    (tmp_path / "generation_config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    assert locate_model(ModelSpec(name=str(path))) == before
    assert before.files == (path,)
    (tmp_path / "general_text.txt").write_text("own text")
    after = locate_model(ModelSpec(name=str(path)))
    assert after.fingerprint != before.fingerprint
    assert general_text(after) == "own text"


def test_general_text_is_the_models_own_or_the_default(folder: Path):
    default = general_text(locate_model(ModelSpec(name=str(folder))))
    assert len(default) > 1000
    (folder / "general_text.txt").write_text("Ein Text über etwas.", encoding="utf-8")
    assert general_text(locate_model(ModelSpec(name=str(folder)))) == "Ein Text über etwas."


def test_a_hub_model_is_its_commit_and_only_its_counted_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    snapshot = folder.rename(tmp_path / "0123abc")
    (snapshot / "README.md").write_text("# model")
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    location = locate_model(ModelSpec(name="someone/model"))
    assert location.fingerprint == "0123abc"
    assert snapshot / "README.md" not in location.files
    assert {"general_text.txt", "merges.txt", "generation_config.json"} <= set(asked["patterns"])


def test_a_saved_model_is_measured_on_the_same_general_text(toy_spec, folder: Path, tmp_path: Path):
    (folder / "general_text.txt").write_text("red green blue one two three " * 9)

    def run(model: Path, out: str, save_model: Path | None = None):
        spec = toy_spec(steps=2).model_copy(update={"model": ModelSpec(name=str(model))})
        request = RunRequest(Workspace(tmp_path / out), save_model=save_model)
        return run_one(spec, request, RunObserver()).record.retention

    trained = run(folder, "first", tmp_path / "saved")
    reloaded = run(tmp_path / "saved", "again")
    assert reloaded.tokens == trained.tokens
    assert reloaded.nll_before == pytest.approx(trained.nll_after, rel=1e-6)


def test_where_no_model_can_be_saved_nothing_is_trained(toy_spec, folder: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    spec = toy_spec(steps=2).model_copy(update={"model": ModelSpec(name=str(folder))})
    for place, told in (
        (tmp_path / "file", "not a folder; choose another folder with save_model"),
        (folder / ".." / folder.name, "is that of the model itself"),
    ):
        request = RunRequest(Workspace(tmp_path / "out"), save_model=place)
        with pytest.raises(UserError, match=told):
            run_one(spec, request, RunObserver())
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_tokenizer_json_is_found(folder: Path):
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(locate_model(ModelSpec(name=str(folder))))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert locate_model(ModelSpec(name=str(folder))).has_tokenizer
