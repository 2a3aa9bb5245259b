"""``epi-bench settings`` and the reference page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epi_bench.cli.app import app
from epi_bench.cli.settings import settings_page
from epi_bench.spec.settings import all_settings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_loses_no_word(columns):
    result = CliRunner().invoke(app, ["settings"], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= columns
    assert "…" not in result.output
    letters = re.sub(r"[^\w.-]", "", result.output)
    for setting in all_settings().values():
        assert setting.name in letters
        assert setting.flag_name in letters


def test_json_holds_everything():
    result = CliRunner().invoke(app, ["settings", "--format", "json"])
    rows = {row["name"]: row for row in json.loads(result.output)}
    assert set(rows) == set(all_settings())
    assert rows["data.max_length"] == {
        "name": "data.max_length",
        "flag": "--max-length",
        "type": "integer",
        "range": "at least 8",
        "default": "128 on tiny, else 1024",
        "description": all_settings()["data.max_length"].description,
    }


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), (
        "run: python scripts/write_settings_page.py"
    )
