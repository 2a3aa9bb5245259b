"""Which turns carry loss, and what the record says became of a task's rows."""

import json

import pytest
from typer.testing import CliRunner

from epi_bench.cli.app import app
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.preparation import prepare_run
from epi_bench.spec.defaults import complete_spec


@pytest.fixture
def data_dir(tmp_path):
    """Alpaca rows, some of them defective or long, and dialogues of two rounds."""
    rows = [{"instruction": f"copy {n}", "input": "", "output": f"word {n}"} for n in range(60)]
    rows[3] = {"instruction": "copy", "input": "", "output": " "}
    rows[4] = {"instruction": "", "input": "a", "output": "word"}
    rows[5] = {"instruction": "copy 5 at length", "input": "", "output": "red green " * 300}
    rows[6] = {"instruction": "red green " * 300, "input": "", "output": "word"}
    dialogues = [
        {
            "messages": [
                {"role": "user", "content": f"copy {n}"},
                {"role": "assistant", "content": "first"},
                {"role": "user", "content": "copy again"},
                {"role": "assistant", "content": "second"},
            ]
        }
        for n in range(60)
    ]
    for name, content in (("alpaca/train", rows), ("ultrachat/train_sft", dialogues)):
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(map(json.dumps, content)))
    return tmp_path / "data"


def spec_for(toy_model, task, **data):
    return complete_spec(
        {
            "model": {"name": str(toy_model)},
            "strategy": {"name": "full_sft"},
            "data": {"tasks": [task], "max_length": 256, **data},
            "training": {"steps": 1},
            "evaluation": {"probe_examples": 0},
            "threads": 1,
        }
    )


def test_the_record_counts_rows_and_examples_of_each_task(toy_model, data_dir, tmp_path):
    arguments = [
        *("run", "--strategy", "full_sft", "--model", str(toy_model), "--tasks", "alpaca"),
        *("--data-dir", str(data_dir), "--steps", "1", "--max-length", "256", "--quiet"),
        *("--test-examples", "1", "--probe-examples", "0", "--out", str(tmp_path)),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = load_record(path)
    counts = record.task_data["alpaca"]
    assert counts.rows_read == {"train": 60, "test": 60}
    assert counts.skipped_rows == {"train": {"empty output": 1, "empty instruction": 1}}
    prepared = prepare_run(record.spec, data_dir)
    sides = {split: len(prepared.tasks["alpaca"].task.examples(split)) for split in ("train",)}
    assert counts.train_examples + counts.unsupervised == sides["train"]
    assert counts.test_examples == 1
    # The long rows may be on the test side; they are counted where they are trained on.
    trained = [e.messages[0]["content"] for e in prepared.tasks["alpaca"].task.examples("train")]
    assert counts.truncated == sum("at length" in prompt for prompt in trained)
    assert counts.unsupervised == sum("red green" in prompt for prompt in trained)
    assert counts.truncated + counts.unsupervised > 0


def test_older_records_have_no_such_counts(make_run):
    content = make_run().model_dump(mode="json")
    del content["task_data"]
    del content["spec"]["data"]["mask_history"]
    del content["track"]["facts"]["mask_history"]
    record = RunRecord.model_validate(content)
    assert record.task_data == {}
    assert record == make_run()


@pytest.mark.parametrize(
    ("mask_history", "expected"),
    [(False, "first<|im_end|>second<|im_end|>"), (True, "second<|im_end|>")],
)
def test_history_may_be_left_unsupervised(toy_model, data_dir, mask_history, expected):
    prepared = prepare_run(
        spec_for(toy_model, "ultrachat", mask_history=mask_history, train_examples=3), data_dir
    )
    for example in prepared.tasks["ultrachat"].train:
        pairs = zip(example.input_ids, example.supervised, strict=True)
        supervised = [token for token, on in pairs if on]
        assert prepared.encoder.tokenizer.decode(supervised) == expected


def test_masking_history_makes_another_run_and_saying_the_default_does_not(toy_model, data_dir):
    plain, said, masked = (
        prepare_run(spec_for(toy_model, "ultrachat", **options), data_dir).run_id
        for options in ({}, {"mask_history": False}, {"mask_history": True})
    )
    assert plain == said != masked


@pytest.mark.parametrize(("flag", "written"), [("--mask-history", True), (None, False)])
def test_the_flag_reaches_the_file_that_repeats_the_run(
    toy_model, data_dir, tmp_path, flag, written
):
    from epi_bench.spec.toml import read_toml

    arguments = [
        *("run", "--strategy", "full_sft", "--model", str(toy_model), "--tasks", "ultrachat"),
        *("--data-dir", str(data_dir), "--steps", "1", "--quiet", "--out", str(tmp_path)),
        *("--train-examples", "2", "--test-examples", "1", "--probe-examples", "0"),
        *([flag] if flag else []),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "runs").glob("*/run.toml")
    assert read_toml(path)["data"]["mask_history"] is written


def test_progress_is_told_for_large_data_sets_only(toy_model, data_dir, tmp_path, monkeypatch):

    class Told(RunObserver):
        def __init__(self):
            self.calls = []

        def preparing(self, what, done, total):
            self.calls.append((what, done, total))

    few, many = Told(), Told()
    prepare_run(spec_for(toy_model, "ultrachat"), data_dir, observer=few)
    monkeypatch.setattr("epi_bench.runs.examples.SHOWN_FROM", 10)
    prepare_run(spec_for(toy_model, "ultrachat"), data_dir, observer=many)
    assert few.calls == []
    ((what, done, total),) = many.calls
    assert what == "encoding ultrachat"
    assert done == total > 10


def test_encodings_are_kept_between_runs(toy_model, data_dir, tmp_path, monkeypatch):
    from epi_bench.model.chat import encoding_cache

    monkeypatch.setattr(encoding_cache, "SMALLEST_CACHED", 10)
    monkeypatch.setenv("EPI_BENCH_CACHE", str(tmp_path / "cache"))
    spec = spec_for(toy_model, "ultrachat")
    first = prepare_run(spec, data_dir)
    (entry,) = (tmp_path / "cache" / "encoded").iterdir()
    second = prepare_run(spec, data_dir)
    assert second.tasks["ultrachat"].train == first.tasks["ultrachat"].train
    assert second.run_id == first.run_id
    entry.write_bytes(b"broken")
    third = prepare_run(spec, data_dir)
    assert third.tasks["ultrachat"].train == first.tasks["ultrachat"].train
    assert any("is damaged" in warning for warning in third.warnings)
