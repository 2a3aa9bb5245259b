"""The tables of the studies of settings (``scripts/``), from records made by hand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Runs a script without its main part; what the scripts share is found beside them."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield lambda name: runpy.run_path(str(SCRIPTS / f"{name}.py"))
    sys.modules.pop("study", None)


def test_the_search_marks_the_best_setting_of_each_strategy(script, make_run):
    # Average accuracies (50 + 80) / 2 = 65 and (60 + 80) / 2 = 70 against 55 and 60.
    good = [
        make_run("ewc", (s, 80), seed=i, options={"strength": 1e3}) for i, s in enumerate((50, 60))
    ]
    bad = [
        make_run("ewc", (s, 80), seed=i, options={"strength": 1e4}) for i, s in enumerate((30, 40))
    ]
    lines = script("search_hyperparameters")["table"]([*bad, *good]).splitlines()
    assert lines[2:] == [
        "| ewc | strength=10000.0 | 2 | 57.5 | -35.0 | 75.0 |",
        "| ewc | strength=1000.0 **best** | 2 | 67.5 | -15.0 | 75.0 |",
    ]


def test_the_ablation_compares_with_the_first_setting_by_seed(script, make_run):
    module = script("ablate_isolation")
    permuted, inverted = module["QUESTIONS"]["controls"][1:3]
    first = module["QUESTIONS"]["controls"][0]
    records = []
    for setting, finals in ((first, (60, 70)), (permuted, (40, 40)), (inverted, (50, 60))):
        for seed, score in zip((100, 101), finals, strict=True):
            run = make_run("epi_similarity", (score, 80), seed=seed)
            records.append((setting.spec(seed), run))
    lines = module["table"]("controls", records).splitlines()
    # Average accuracies 70 and 75; 10 and 15 less: t = 12.5 / 2.5 = 5, p = 0.126 with one degree
    # of freedom; 5 and 5 less: no test.
    assert lines[4:] == [
        "| `epi_similarity` control none | 2 | 72.5 | -5.0 | 75.0 | – | – |",
        "| `epi_similarity` control permuted | 2 | 60.0 | -30.0 | 75.0 | -12.5 | 0.126 |",
        "| `epi_similarity` control inverted | 2 | 67.5 | -15.0 | 75.0 | -5.0 | – |",
    ]
