"""What there is, on terminals of several widths, in a pipe and for other programs."""

from __future__ import annotations

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from epi_bench.cli.docstrings import description, first_sentence, without_markup
from epi_bench.cli.listing import streams_app, tasks_app
from epi_bench.cli.strategies import strategies_app
from epi_bench.task.task import TASKS

LISTS = {"strategies": strategies_app, "tasks": tasks_app, "streams": streams_app}


@pytest.fixture
def call(monkeypatch):
    def call_at(width, app, *arguments):
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        result = CliRunner().invoke(LISTS[app], arguments)
        assert result.exit_code == 0, result.exception
        return result.stdout

    return call_at


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("app", ["strategies", "streams", "tasks"])
def test_a_list_fits_and_shortens_nothing(call, app, width):
    text = call(width, app, "list")
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 80, None])
def test_no_name_of_a_task_or_its_origin_is_broken(call, width):
    words = call(width, "tasks", "list").split()
    for name, task in TASKS.load_all()[0].items():
        assert name in words
        if task.card.source and (not width or len(task.card.source.hub_id) < width):
            assert task.card.source.hub_id in words


def test_in_a_pipe_a_task_is_one_line(call):
    lines = call(None, "tasks", "list").splitlines()
    (line,) = (line for line in lines if line.startswith("amazon "))
    assert "sentiment" in line
    assert line.rstrip().endswith("fine_grained_5_classes")


@pytest.mark.parametrize("app", ["strategies", "streams", "tasks"])
def test_a_list_for_other_programs_is_nothing_but_the_table(call, app):
    names = [
        next(iter(row.values())) for row in json.loads(call(None, app, "list", "--format", "json"))
    ]
    table = list(csv.reader(io.StringIO(call(None, app, "list", "--format", "csv"))))
    assert [row[0] for row in table[1:]] == names
    markdown = call(None, app, "list", "--format", "markdown").splitlines()
    assert len(markdown) == len(names) + 2
    assert len(names) >= 2


@pytest.mark.parametrize("width", [60, 80, 120])
def test_options_are_shown_whole(call, width):
    text = call(width, "strategies", "show", "epi")
    assert max(map(len, text.splitlines())) <= width
    for word in ("normalisation", "'ema_bf16',", "0.999", "refresh,"):
        assert word in text.split()
    assert "`" not in text


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("the ``ratio`` of weights", "the ratio of weights"),
        ("see :class:`~epi_bench.Strategy`", "see Strategy"),
        ("see :func:`epi_bench.ask`", "see epi_bench.ask"),
        ("see :meth:`the hook <epi_bench.Strategy.after_step>`", "see the hook"),
        ("by `Lin <https://arxiv.org/abs/1>`_", "by Lin (https://arxiv.org/abs/1)"),
        ("``a`` and ``b``", "a and b"),
        ("I [red]stay[/red] `as is` *too*", "I [red]stay[/red] `as is` *too*"),
    ],
)
def test_markup_of_docstrings_becomes_plain_text(markup, shown):
    assert without_markup(markup) == shown


def test_a_description_has_paragraphs_and_lists_without_arguments():
    from rich.console import Console

    def documented():
        """First [b]line.

        A paragraph that
        goes on.

        1. one ``thing``
           over two lines
        2. another

        Args:
            x: Not shown.
        """

    console = Console(file=io.StringIO(), width=60)
    console.print(description(documented))
    assert [line.rstrip() for line in console.file.getvalue().rstrip().split("\n")] == [
        "First [b]line.",
        "",
        "A paragraph that goes on.",
        "",
        "1. one thing over two lines",
        "2. another",
    ]
    assert first_sentence(documented) == "First [b]line."
    assert first_sentence(lambda: None) == ""
