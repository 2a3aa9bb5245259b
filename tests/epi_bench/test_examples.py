"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["errors", "spec.defaults", "spec.settings", "cli.flag_names"])
def test_the_examples_of_a_module(module):
    found = doctest.testmod(importlib.import_module(f"epi_bench.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
