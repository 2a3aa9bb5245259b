"""Every line that the command line prints outside of tables: foreign text in it is only text."""

from __future__ import annotations

import typer

from epi_bench.foreign_text import for_terminal


def say(text: str, *, aside: bool = False) -> None:
    """Print one line.

    Args:
        text: The line.
        aside: To the error output, because the standard output is the result.
    """
    typer.echo(for_terminal(text), err=aside)


def complain(text: str) -> None:
    """Print one line to the error output, with the program's name in front.

    Args:
        text: An error, or a warning that says so.
    """
    typer.echo(for_terminal(f"epi-bench: {text}"), err=True)


def put(text: str) -> None:
    """Print lines as they are to the standard output: CSV, JSON, Markdown."""
    typer.echo(for_terminal(text, several_lines=True), nl=not text.endswith("\n"))
