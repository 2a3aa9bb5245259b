"""What the README shows works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(marker: str) -> str:
    found = re.search(rf"<!-- test: {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block marked {marker!r}"
    return found.group(1)


def _small(toy_model, toy_tasks):
    return ["--model", toy_model, "--plugin", toy_tasks, "--tasks", "toy_first,toy_choice",
            "--steps", 3, "--batch-size", 4, "--max-length", 64, "--quiet"]  # fmt: skip


def _epi_bench(*arguments, cwd, **environment):
    result = subprocess.run(
        [sys.executable, "-m", "epi_bench", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment},
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


def test_the_plugin_file_runs_as_the_readme_says(tmp_path, toy_model, toy_tasks):
    (tmp_path / "half_step.py").write_text(_block("plugin"))
    command = re.search(r"epi-bench run (--plugin half_step.py .*)", README).group(1).split()
    code, _, error = _epi_bench("run", *command, *_small(toy_model, toy_tasks), cwd=tmp_path)
    assert code == 0, error
    assert len(list((tmp_path / "results").glob("*/*.json"))) == 2
    shown = _epi_bench("strategies", "show", "half_step", "--plugin", "half_step.py", cwd=tmp_path)
    assert "Part of each optimizer step that is kept" in " ".join(shown[1].split())


def test_half_of_a_step_is_half_of_a_step(tmp_path, train_toy, forgotten_plugins):
    import torch

    from epi_bench.plugins.loading import load_plugin_file

    path = tmp_path / "half_step.py"
    path.write_text(_block("plugin"))
    load_plugin_file(path)
    options = {"tasks": ["toy_first"], "steps": 1, "optimizer": "sgd"}
    start = train_toy("half_step", {"share": 1e-12}, **options).model.parameters()
    half = train_toy("half_step", {"share": 0.5}, **options).model.parameters()
    whole = train_toy("full_sft", **options).model.parameters()
    for before, middle, after in zip(start, half, whole, strict=True):
        assert torch.allclose(middle, (before + after) / 2, atol=1e-6)


def test_the_bridges_are_made_as_the_readme_says():
    import torch

    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    names = {"model": model, "optimizer": optimizer}
    exec(_block("bridges"), names)
    for _ in range(60):
        before, mask = model.weight.detach().clone(), names["protection"].isolation.masks["weight"]
        model(torch.ones(8)).square().sum().backward()
        optimizer.step()
        held = mask.view_as(model.weight)
        assert torch.equal(model.weight[held], before[held])
        assert not torch.equal(model.weight[~held], before[~held])
    assert names["protection"].isolation.protected_count == round(0.3 * 72)


def test_the_python_example_gives_a_ranking_and_a_table(tmp_path, monkeypatch, toy_model):
    for name in ("tickets.csv", "tickets.toml"):
        (tmp_path / name).write_text(_page_file("own_data.md", name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    small = {
        "training": {"steps": 2, "batch_size": 2},
        "data": {"max_length": 160, "test_examples": 4},
        "evaluation": {"max_new_tokens": 4},
    }
    example = _block("python").replace("path/to/model", str(toy_model))
    example = example.replace("gsm8k", "mini_math").replace("seeds=3", f"seeds=2, settings={small}")
    names = {}
    exec(example, names)
    assert {entry.strategy for entry in names["results"].ranking().entries} == {"full_sft", "epi"}
    assert len(names["frame"]) == 4


def _page_file(page, name):
    """The text of a file that a page shows."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.search(rf"<!-- test: file {name} -->\n```\w+\n(.*?)```", text, re.DOTALL).group(1)


@pytest.mark.slow
def test_the_package_is_found_by_its_entry_point(tmp_path, toy_model, toy_tasks):
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    (package / "half_step.py").write_text(_block("plugin"))
    (package / "pyproject.toml").write_text(_block("package").split("\n", 1)[1])
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", str(site), str(package)],
        check=True, capture_output=True,
    )  # fmt: skip
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    code, out, _ = _epi_bench("strategies", "list", cwd=tmp_path, PYTHONPATH=path)
    assert code == 0
    assert "half_step" in out
    code, _, error = _epi_bench(
        "run",
        "--strategy",
        "half_step",
        *_small(toy_model, toy_tasks),
        cwd=tmp_path,
        PYTHONPATH=path,
    )
    assert code == 0, error
    assert len(list((tmp_path / "results").glob("*/*.json"))) == 1


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _flags(command):
    """Every flag of a command; of a group, those of its commands."""
    if hasattr(command, "commands"):
        return set().union(*map(_flags, command.commands.values()))
    return {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}


def _commands_shown(text):
    """(words of a command, flags) for each ``epi-bench ...`` in blocks and in running code."""
    blocks = [body for language, body in FENCE.findall(text) if not language]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(epi-bench [^`]+)`", FENCE.sub("", text))
    for line in lines:
        for call in re.findall(r"epi-bench ([a-z][^#&]*)", line):
            words = call.split()
            yield words, set(re.findall(r"(?<!\S)--[a-z][a-z-]+", call))


def _find(words):
    import typer

    from epi_bench.cli.app import app

    command = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        if word not in command.commands and hasattr(command, "default_command"):
            command = command.commands[command.default_command]
            break
        assert word in command.commands, f"epi-bench {' '.join(words)}"
        command = command.commands[word]
    return command


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_takes_the_flags_that_are_shown_with_it(page):
    for words, flags in _commands_shown((ROOT / page).read_text(encoding="utf-8")):
        command = _find(words)
        assert flags <= _flags(command), f"epi-bench {' '.join(words)}"


def test_a_flag_of_another_command_does_not_pass():
    [(words, flags)] = _commands_shown("```\nepi-bench leaderboard --steps 3 # --jobs\n```")
    assert flags == {"--steps"}
    assert "--steps" in _flags(_find(["run"]))
    assert not flags & _flags(_find(words))


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_flags_in_running_text_are_flags_of_the_run_or_of_one_command(page):
    """A flag that stands alone in a sentence: of ``run``, or of a command the README names."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    alone = {
        flag
        for code in re.findall(r"`([^`\n]+)`", text)
        if not code.startswith(("epi-bench", "pip", "mkdocs"))
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)
    }
    assert alone
    assert alone <= _flags(_find(["run"])), alone - _flags(_find(["run"]))
