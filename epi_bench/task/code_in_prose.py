"""Python among lines of prose: the runs of lines that parse."""

from __future__ import annotations

import ast
import codeop
import re
import warnings
from collections.abc import Sequence

from epi_bench.task.python_source import PythonSource, read_sources

MOST_PARSED = 150_000
"""Characters that are given to the parser in one search."""

_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b|[)\]}]")
_LONG_QUOTES = ('"""', "'''")


def code_between_prose(text: str) -> list[PythonSource]:
    """The runs of lines that parse, each as long as can be.

    Lines that are Python only by chance (a word, ``Note: this``) end a run. A statement that is
    cut off is left out whole.
    """
    lines = text.split("\n")
    runs: list[str] = []
    run: list[str] = []
    depth, position, budget = 0, 0, MOST_PARSED
    while position < len(lines) and budget > 0:
        indentation = indentation_of(lines[position])
        if indentation is None:
            run.append("")
            position += 1
            continue
        end, spent = _statement_end(lines, position, indentation, budget)
        budget -= spent
        if end is None or indentation != depth:
            runs.append("\n".join(run))
            run, depth = [], indentation
        if end is not None:
            run += _dedented(lines[position:end], indentation)
        position = end or position + 1
    return read_sources(*runs, "\n".join(run))


def _statement_end(
    lines: list[str], start: int, indentation: int, budget: int
) -> tuple[int | None, int]:
    """The line after the statement that begins at a line, ``None`` if there is none.

    Returns:
        The line, and the characters that were parsed to find it.
    """
    end, spent = _clause_end(lines, start, indentation), 0
    while spent < budget:
        code = "\n".join(_dedented(lines[start:end], indentation)) + "\n"
        spent += len(code)
        tree = _statements(code)
        if isinstance(tree, ast.Module):
            return (None if any(map(is_prose, tree.body)) else end), spent
        if tree is None or end == len(lines):
            return None, spent
        following = _clause_end(lines, end, indentation)
        text = code + "\n".join(lines[end:following])
        inside = [text.count(quotes) % 2 == 1 for quotes in _LONG_QUOTES]
        end = following
        while any(inside) and end < len(lines):  # on to the line that ends the string
            changes = [lines[end].count(quotes) % 2 == 1 for quotes in _LONG_QUOTES]
            inside = [now != change for now, change in zip(inside, changes, strict=True)]
            end += 1
        end = _clause_end(lines, end - 1, indentation)
    return None, spent


def _clause_end(lines: list[str], start: int, indentation: int) -> int:
    """The line after a line and what is indented below it, ``else`` and the like with theirs."""
    end = last = start + 1
    while end < len(lines):
        depth = indentation_of(lines[end])
        if depth is not None:
            continues = depth == indentation and _CONTINUES.match(lines[end].lstrip())
            if depth <= indentation and not continues:
                break
            last = end + 1
        end += 1
    return last


def _statements(code: str) -> ast.Module | str | None:
    """The syntax tree, ``"incomplete"`` if more lines may complete it, or ``None``."""
    flags = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module = compile(code, "program", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return "incomplete" if error.msg == "incomplete input" else None
    except (ValueError, RecursionError, MemoryError):
        return None
    return tree


def is_prose(statement: ast.stmt) -> bool:
    """Whether a statement does nothing in a program: words of prose can look like one."""
    if isinstance(statement, ast.Expr):
        value = statement.value
        text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        acts = (ast.Call, ast.Await, ast.NamedExpr)
        return not text and not any(isinstance(node, acts) for node in ast.walk(value))
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Return)


def indentation_of(line: str) -> int | None:
    """Spaces and tabs before a line's text; ``None`` for a line without text."""
    text = line.lstrip()
    return len(line) - len(text) if text else None


def _dedented(lines: Sequence[str], indentation: int) -> list[str]:
    return [
        line[indentation:] if not line[:indentation].strip() else line.lstrip() for line in lines
    ]
