"""What the tests of the sandbox share."""

import pytest

from epi_bench.sandbox import SANDBOX_MODES, Limits
from epi_bench.sandbox.probe import find_problem

_problems = {}


@pytest.fixture(params=list(SANDBOX_MODES))
def mode(request):
    """Each mode that this system offers, or a skip that says why it does not."""
    name = request.param
    if name not in _problems:
        _problems[name] = find_problem(name)
    if _problems[name]:
        pytest.skip(f"mode {name} does not hold here: {_problems[name]}")
    return name


@pytest.fixture
def limits():
    """Short ones."""
    return Limits(wall_seconds=2, cpu_seconds=1, memory_mebibytes=256, file_mebibytes=2)
