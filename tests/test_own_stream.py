"""What docs/own_stream.md shows works as it is written."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import load_record
from epi_bench.spec.streams import ExperiencePlan, build_stream

PAGE = (Path(__file__).parents[1] / "docs" / "own_stream.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("forgotten_plugins")


def block(marker):
    return re.search(rf"<!-- test: {marker} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rounds.py").write_text(block("file rounds.py"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_written(folder, monkeypatch, capsys):
    from epi_bench.cli.app import main

    for command in block("commands").strip().splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, f"{command}: {capsys.readouterr().err}"
        if "show" in command:
            assert "How often each task is trained" in " ".join(capsys.readouterr().out.split())
    record = load_record(next(folder.rglob("record.json")))
    names = [f"{task} {number}" for number in (1, 2, 3) for task in ("mini_math", "mini_code")]
    assert record.score_matrix.rows == ("base", *names)
    assert [experience.steps for experience in record.experiences] == [4] * 6
    assert record.track.facts.stream_code == record.fingerprints.plugins["stream:rounds"]
    assert record.track.facts.stream_options == {"count": 3}


def test_an_entry_point_needs_no_plugin_flag(folder, monkeypatch):
    """An installed distribution is a folder with metadata on the path."""
    points = tomllib.loads(block("entry point"))["project"]["entry-points"]["epi_bench.streams"]
    metadata = folder / "rounds-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rounds\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[epi_bench.streams]", *lines]))
    monkeypatch.syspath_prepend(str(folder))
    assert [plan.name for plan in build_stream("rounds", ("a",), {})] == ["a 1", "a 2"]
    with pytest.raises(UserError, match="count=0: a task must be trained at least once"):
        build_stream("rounds", ("a",), {"count": "0"})


def test_the_table_names_every_field_of_a_plan():
    table = PAGE.split("## What a plan says")[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        f.name for f in fields(ExperiencePlan)
    ]
