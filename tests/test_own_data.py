"""What docs/own_data.md shows works as it is written."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from epi_bench.results.record.record_file import load_record

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- test: file ([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    block.strip().splitlines()
    for block in re.findall(r"<!-- test: commands -->\n```\n(.*?)```", PAGE, re.DOTALL)
]


pytestmark = pytest.mark.usefixtures("forgotten_tasks")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def epi_bench(monkeypatch, capsys):
    from epi_bench.cli.app import main

    def call(command):
        program, *arguments = shlex.split(command)
        assert program == "epi-bench"
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert not ended.value.code, f"{command}: {captured.err}"
        return captured.out

    return call


def test_the_page_has_what_is_tested():
    assert len(COMMANDS) == 3
    assert {"tickets.toml", "word_problems.toml", "support.toml", "dates.py"} <= set(FILES)


@pytest.mark.parametrize("commands", COMMANDS, ids=lambda commands: commands[0][10:])
def test_the_commands_run_as_written(commands, folder, epi_bench):
    printed = [epi_bench(command) for command in commands]
    runs = [command for command in commands if " run " in command]
    records = [load_record(path) for path in folder.rglob("record.json")]
    assert len(records) == len(runs) == 1
    assert records[0].status == "finished"
    labelled = records[0].confusion.get("tickets")
    if labelled:
        assert sum(map(sum, labelled.counts)) == records[0].task_data["tickets"].test_examples
        assert "tickets: right label, and which was chosen" in " ".join("".join(printed).split())
    assert bool(labelled) == ("tickets" in records[0].task_order)
    if "validate" in commands[0]:
        assert "fine" in printed[0]
    if "show" in commands[1]:
        assert printed[1].count("⟦hardware<|im_end|>⟧") + printed[1].count("⟦accounts") == 2


def test_a_suite_brings_its_settings_and_its_order(folder, epi_bench):
    epi_bench(COMMANDS[1][1])
    spec = load_record(next(folder.rglob("record.json"))).spec
    assert spec.data.tasks == ("tickets", "helpdesk", "mini_math")
    assert spec.data.max_length == 96
    assert spec.training.steps == 10


@pytest.mark.parametrize("name", ["tickets", "helpdesk", "moods"])
def test_each_file_task_is_fine(name, folder):
    from epi_bench.task.files.validation import validate_task_file

    result = validate_task_file(Path(f"{name}.toml"))
    assert (result.problems, result.warnings) == ([], [])
    assert all(split.examples for split in result.splits)


def test_integers_become_labels(folder):
    from epi_bench.task.files.file_task import load_task_file

    task = load_task_file(Path("moods.toml"))()
    made = {e.messages[0]["content"]: e for s in ("train", "test") for e in task.examples(s)}
    assert made["I like it."].reference == "positive"
    assert made["Never again."].messages[-1]["content"] == "negative"


@pytest.mark.real_data
def test_the_hub_task_reads_a_local_copy(folder, real_data):
    from epi_bench.task.files.file_task import load_task_file

    task = load_task_file(Path("word_problems.toml"))(real_data)
    assert len(task.examples("test")) == 1319
    for example in task.examples("train"):
        assert re.fullmatch(r"-?[\d,.]+", example.reference)
        assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]


def test_an_entry_point_needs_no_plugin_flag(folder, epi_bench, monkeypatch):
    """An installed distribution is a folder with metadata on the path."""
    block = re.search(r"<!-- test: entry point -->\n```toml\n(.*?)```", PAGE, re.DOTALL).group(1)
    points = tomllib.loads(block)["project"]["entry-points"]["epi_bench.tasks"]
    metadata = folder / "dates-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dates\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[epi_bench.tasks]", *lines]))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "dates", raising=False)
    assert "weekdays" in epi_bench("epi-bench tasks list")
    assert "⟦Monday<|im_end|>⟧" in epi_bench("epi-bench tasks show weekdays")


def test_the_table_of_keys_is_complete():
    from epi_bench.task.files.definition import METRICS, TaskDefinition

    table = PAGE.split("## Every key")[1].split("\n\n")[1]
    shown = set(re.findall(r"`(\w+)`", table))
    for name, field in TaskDefinition.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        assert set(keys or ()) <= shown, name
    assert {metric for metrics in METRICS.values() for metric in metrics} <= shown
