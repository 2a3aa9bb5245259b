"""An example as the model sees it."""

from __future__ import annotations

import io

from rich.console import Console

from epi_bench import Example, ask
from epi_bench.cli.show import render_example
from epi_bench.spec.run_spec import ModelSpec


def test_neither_markup_nor_codes_of_data_reach_the_terminal():
    class Wild:
        name = "wild"

        def examples(self, split):
            return [Example(ask("[red]q[/red] \x1b[31m", "a\x07b"), "a")]

    console = Console(file=io.StringIO(), width=80)
    console.print(render_example(Wild(), ModelSpec(name="tiny"), 0))
    text = console.file.getvalue()
    assert "[red]q[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "⟦a\\x07b" in text
