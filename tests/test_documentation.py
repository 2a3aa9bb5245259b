"""The pages under docs/ say what is, their examples run, and the site is whole."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def _page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def _shown_files(name):
    found = re.findall(r"<!-- test: file ([\w.]+) -->\n```\w+\n(.*?)```", _page(name), re.DOTALL)
    return dict(found)


def _shown_commands(name):
    blocks = re.findall(r"<!-- test: commands -->\n```\n(.*?)```", _page(name), re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


# Pages that are made from the code


@pytest.mark.parametrize("name", ["command_line.md", "record.md"])
def test_the_page_is_what_the_code_says(name):
    pages = runpy.run_path(str(ROOT / "scripts" / "write_reference_pages.py"))["pages"]()
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == pages[name], (
        "run: python scripts/write_reference_pages.py"
    )


def test_the_page_of_strategies_is_what_their_classes_say():
    page = runpy.run_path(str(ROOT / "scripts" / "write_strategies_page.py"))["strategies_page"]()
    assert _page("strategies.md") == page, "run: python scripts/write_strategies_page.py"


def test_the_page_of_checks_names_each_strategy_with_a_test_that_is_there():
    from epi_bench.strategy.strategy import STRATEGIES

    rows = re.findall(
        r"^\| `(\w+)` \|.*\| `([\w/]+\.py)::(\w+)` \|", _page("strategy_checks.md"), re.M
    )
    assert {name for name, _, _ in rows} == {
        name for name in STRATEGIES.names() if STRATEGIES.is_builtin(name)
    }
    for _, file, test in rows:
        path = ROOT / (file if file.startswith("tests/") else f"tests/strategies/{file}")
        assert f"def {test}(" in path.read_text(encoding="utf-8")


def test_every_command_and_flag_is_on_the_page():
    import typer

    from epi_bench.cli.app import app

    page = _page("reference/command_line.md")
    run = typer.main.get_command(app).commands["run"]
    for parameter in run.params:
        if not parameter.hidden:
            assert f"`{parameter.opts[0]}`" in page
    for command in ("run", "leaderboard show", "tasks show", "strategies list"):
        assert f"\n## `{command}`\n" in page


def test_every_public_name_has_its_place_in_the_reference():
    import epi_bench
    import epi_bench.bridges
    import epi_bench.plugin
    import epi_bench.testing

    pages = _page("reference/python.md") + _page("reference/plugins.md")
    described = re.findall(r"^::: epi_bench\.([\w.]+)$", pages, re.MULTILINE)
    assert len(described) == len(set(described))
    public = {*epi_bench.__all__, *epi_bench.plugin.__all__, *epi_bench.testing.__all__} | {
        f"bridges.{name}" for name in epi_bench.bridges.__all__
    }
    missing = _last_parts(public) - _last_parts(described)
    assert not missing, missing


def _last_parts(names):
    return {name.rsplit(".", 1)[-1] for name in names}


# Examples


def test_the_worked_example_gives_these_metrics():
    from epi_bench.results.metrics import score_matrix as metrics

    rows = re.search(r"<!-- test: matrix -->\n\n(.*?)\n\n", _page("concepts.md"), re.DOTALL)
    table = [
        [float(cell) for cell in line.split("|")[2:-1]] for line in rows.group(1).splitlines()[2:]
    ]
    *matrix, references = table
    learned_at = [1, 2, 3]
    expected = {
        "average accuracy": metrics.average_accuracy(matrix),
        "learning accuracy": metrics.learning_accuracy(matrix, learned_at),
        "backward transfer": metrics.backward_transfer(matrix, learned_at),
        "forgetting": metrics.forgetting(matrix, learned_at),
        "intransigence": metrics.intransigence(matrix, learned_at, references),
        "average normalised score": metrics.average_normalised_score(matrix, references).value,
    }
    section = _page("concepts.md").split("<!-- test: metrics -->")[1].split("\n\n- ")[0]
    shown = dict(re.findall(r"^\| ([a-z ]+) \|.*\| (-?[\d.]+) \|$", section, re.MULTILINE))
    assert set(shown) == set(expected)
    for name, text in shown.items():
        assert f"{expected[name]:.{len(text.split('.')[1])}f}" == text, name


@pytest.mark.usefixtures("forgotten_plugins")
@pytest.mark.parametrize("page", ["tutorial.md", "own_strategy.md"])
def test_the_commands_of_the_page_run(page, tmp_path, monkeypatch, capsys, toy_model):
    from epi_bench.cli.app import main

    for name, text in _shown_files(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = _shown_commands(page)
    assert commands
    for command in commands:
        words = shlex.split(command.replace("path/to/model", str(toy_model)))
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, f"{command}: {capsys.readouterr().err}"
    assert list(tmp_path.glob("results/*/*.json"))


def test_the_python_of_the_tutorial_runs(tmp_path, monkeypatch, toy_model):
    for name, text in _shown_files("tutorial.md").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    block = r"<!-- test: python -->\n```python\n(.*?)```"
    [code] = re.findall(block, _page("tutorial.md"), re.DOTALL)
    names = {}
    exec(code.replace("path/to/model", str(toy_model)), names)
    assert len(names["frame"]) == 4  # two strategies, two seeds
    assert len(names["scores"]) == 4 * 3 * 2  # runs, rows of the score matrix, tasks


def test_the_examples_on_results_run_on_the_published_board(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    blocks = re.findall(
        r"<!-- test: python -->\n```python\n(.*?)```", _page("from_python.md"), re.DOTALL
    )
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    assert set(names["means"].index) >= {"epi", "full_sft", "replay"}
    assert names["before_training"].between(0, 100).all()
    assert names["found"].n >= 3
    assert names["found"].mean_difference > 0
    assert names["record"].strategy.name == "epi"


def test_the_tutorial_and_the_page_on_own_data_show_the_same_files():
    own = _shown_files("own_data.md")
    for name, text in _shown_files("tutorial.md").items():
        assert text == own[name], name


def test_the_readme_and_the_page_on_strategies_show_the_same_strategy():
    shown = _shown_files("own_strategy.md")["half_step.py"]
    assert shown in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_hook_is_on_the_page_in_the_order_of_the_calls():
    from epi_bench import Strategy

    rows = re.findall(r"^\| [^|]+ \| `(\w+)\(", _page("own_strategy.md"), re.MULTILINE)
    hooks = [name for name in vars(Strategy) if not name.startswith("_")]
    state = {"state_dict", "load_state_dict", "state_bytes", "diagnostics", "stiffness"}
    assert rows == [
        name for name in hooks if callable(getattr(Strategy, name)) and name not in state
    ]


def test_the_glossary_is_in_the_order_of_the_alphabet():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", _page("glossary.md"), re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    assert {"Experience", "Stream", "Track", "Reference", "Importance", "Mask", "Refresh"} <= set(
        words
    )


# Links and the site


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


class _Asked(HTMLParser):
    """Addresses that a browser asks for by itself when it shows a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        loaded = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
        if tag in loaded and given.get(loaded[tag]) and given.get("rel") != "canonical":
            self.addresses.append(given[loaded[tag]])


@pytest.mark.skipif(
    not (importlib.util.find_spec("mkdocs") and importlib.util.find_spec("mkdocstrings")),
    reason="the site is built with the extra docs: pip install -e '.[docs]'",
)
@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_server(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        reader = _Asked()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.addresses, page
        outside = [a for a in reader.addresses if a.startswith(("http:", "https:", "//"))]
        assert not outside, f"{page.relative_to(tmp_path)}: {outside}"
    for sheet in tmp_path.rglob("*.css"):
        asked = re.findall(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8"))
        assert not asked, sheet
