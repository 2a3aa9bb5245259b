"""What ``import epi_bench`` offers, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

import epi_bench
import epi_bench.bridges
import epi_bench.plugin

FACES = [epi_bench, epi_bench.plugin, epi_bench.bridges]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_name_is_there(face):
    assert len(face.__all__) > 3
    for name in face.__all__:
        assert getattr(face, name) is not None
        assert name in dir(face)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = face.nothing


def test_users_see_their_names_and_plugins_find_theirs_too():
    assert {"run", "compare", "evaluate", "load_results", "Results", "UserError"} <= set(
        epi_bench.__all__
    )
    assert not set(epi_bench.__all__) & set(epi_bench.plugin.__all__)
    for name in epi_bench.plugin.__all__:
        assert getattr(epi_bench, name) is getattr(epi_bench.plugin, name)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_no_name_is_a_modules(face):
    """Importing the module would put it in the name's place."""
    if hasattr(face, "__path__"):
        for name in [*face.__all__, *(epi_bench.plugin.__all__ if face is epi_bench else [])]:
            assert find_spec(f"{face.__name__}.{name}") is None


def test_importing_loads_nothing_heavy():
    program = (
        "import sys, epi_bench\n"
        "epi_bench.load_results, epi_bench.run, epi_bench.compare, epi_bench.Where\n"
        "epi_bench.evaluate, epi_bench.Strategy, epi_bench.RunSpec\n"
        "print({'torch', 'transformers', 'pandas', 'avalanche', 'ray', 'datasets', 'scipy'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
