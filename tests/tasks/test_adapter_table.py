"""The table of what each task makes of local files."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "adapter_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("adapter_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapter_table"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["adapter_table"]


def cells(text):
    """The table's lines by task, split and origin."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {tuple(row[:3]): row[3:] for row in rows[2:]}


def test_each_file_gets_a_line_for_each_split_it_feeds(script, tmp_path, capsys):
    folder = tmp_path / "logiqa"
    folder.mkdir()
    row = {"context": "c", "query": "q", "options": ["1", "2", "3", "4"], "correct_option": 1}
    empty = {**row, "query": ""}
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, [row, empty, row])))
    (folder / "Eval.txt").write_text("\na\nc\nq\nA.1\nB.2\nC.3\nD.4\n")
    (folder / "test.jsonl").write_text(json.dumps({**row, "correct_option": 9}))
    assert script.main([str(tmp_path), "logiqa", "yahoo", "mini_math"]) == 1
    found = cells(capsys.readouterr().out)
    assert found == {
        ("logiqa", "train", "logiqa/validation.jsonl"): [
            "3", "3", "2", "1 empty question or answer",
        ],
        ("logiqa", "train", "logiqa/Eval.txt"): ["1", "1", "1", ""],
        ("logiqa", "test", "logiqa/test.jsonl"): [
            "0", "0", "0", "logiqa/test.jsonl line 1 has the right answer 9, which is none of "
            "a to d or 0 to 3",
        ],
        ("yahoo", "train", "–"): ["0", "0", "0", "no local file: read from the hub"],
        ("yahoo", "test", "–"): ["0", "0", "0", "no local file: read from the hub"],
    }  # fmt: skip


def test_a_copy_of_a_hub_repository_is_named_by_its_folder(script, tmp_path, monkeypatch, capsys):
    import datasets.config
    from datasets import Dataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub" / "ag_news" / "data"
    folder.mkdir(parents=True)
    rows = [{"text": "They met.", "label": 0}, {"text": "", "label": 1}]
    Dataset.from_list(rows).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    assert script.main([str(tmp_path / "hub"), "agnews"]) == 1  # there is no train split
    found = cells(capsys.readouterr().out)
    assert found["agnews", "test", "ag_news"] == ["2", "2", "1", "1 empty text"]
    assert "has no split 'train', only test" in found["agnews", "train", "ag_news"][-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["missing"], "missing is not a folder"), ([".", "gsm9k"], "did you mean 'gsm8k'")],
)
def test_a_wrong_argument_is_one_line(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.real_data
def test_all_published_files_are_read(script, real_data, capsys):
    assert script.main([str(real_data)]) == 0
    found = cells(capsys.readouterr().out)
    assert found["gsm8k", "train", "gsm8k/train.jsonl"] == ["7473", "7473", "7473", ""]
    for split, files in (
        ("train", ("validation.jsonl", "validation_eleutherai.jsonl", "Eval.txt")),
        ("test", ("test.jsonl", "Test.txt")),
    ):
        for file in files:
            assert found["logiqa", split, f"logiqa/{file}"] == ["651", "651", "651", ""]
    alpaca = [found["alpaca", split, "alpaca/train_5k.jsonl"] for split in ("train", "test")]
    assert sum(int(row[1]) for row in alpaca) == 5000
    assert alpaca[0][-1] == "2 empty output"
