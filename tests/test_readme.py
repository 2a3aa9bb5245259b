"""What the README shows works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


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
    assert len(list((tmp_path / "leaderboards").glob("*/*.json"))) == 2
    shown = _epi_bench("strategies", "show", "half_step", "--plugin", "half_step.py", cwd=tmp_path)
    assert "Part of each optimizer step that is kept" in " ".join(shown[1].split())


def test_half_of_a_step_is_half_of_a_step(tmp_path, train_toy):
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
    assert len(list((tmp_path / "leaderboards").glob("*/*.json"))) == 1


COMMANDS = re.findall(
    r"^epi-bench (\w+)", "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL)), re.M
)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_in_the_readme_exists(command):
    from epi_bench.cli.app import app

    names = {c.name or c.callback.__name__ for c in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    assert command in names


def test_every_flag_in_the_readme_exists():
    import typer

    from epi_bench.cli.app import app

    command = typer.main.get_command(app)
    flags = {"--quiet", "--upgrade"}
    for sub in command.commands.values():
        for parameter in sub.params:
            flags.update([*parameter.opts, *parameter.secondary_opts])
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert used <= flags, used - flags
