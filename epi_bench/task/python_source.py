"""What Python source says without being run: whether it parses, what it defines and reads."""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

EVERY_NAME = "*"
"""Stands among the defined names for ``from module import *``."""

_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python raises for source that it cannot read: wrong, with NUL, or nested too deeply."""

_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class PythonSource:
    """Source that parses and holds at least one statement.

    Attributes:
        code: The source.
        defines: Names that are there after it ran: functions, classes, variables and imports of
            its outermost level, and :data:`EVERY_NAME`.
        reads: Names that it reads and neither defines nor finds among Python's own.
        hollow: Those among ``defines`` that another place may define better: functions that do
            nothing yet (a docstring, ``pass``, ``...``), and what is imported.
        defines_code: Whether a function or class is among its statements.
    """

    code: str
    defines: frozenset[str]
    reads: frozenset[str]
    hollow: frozenset[str]
    defines_code: bool


def read_source(code: str) -> PythonSource | None:
    """What source says; ``None`` if it does not parse or holds no statement."""
    tree = parsed(code)
    if tree is None or not tree.body:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = symtable.symtable(code, "program", "exec")
    except _UNREADABLE:
        return None
    defines = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    if any(_imports_everything(statement) for statement in tree.body):
        defines.add(EVERY_NAME)
    imported = {s.get_name() for s in table.get_symbols() if s.is_imported()}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return PythonSource(
        code,
        frozenset(defines),
        frozenset(_global_reads(table)) - defines - _BUILTINS,
        frozenset(f.name for f in functions if all(map(_does_nothing, f.body))) | imported,
        bool(functions) or any(isinstance(node, ast.ClassDef) for node in tree.body),
    )


def read_sources(*codes: str) -> list[PythonSource]:
    """What parses of some sources, empty lines around each left out."""
    return [source for code in codes if (source := read_source(code.strip("\n") + "\n"))]


def parsed(code: str) -> ast.Module | None:
    """The syntax tree of source; ``None`` if Python cannot read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code, which is not ours
            return ast.parse(code)
    except _UNREADABLE:
        return None


def defined_names(code: str) -> frozenset[str]:
    """The functions, classes and variables that Python source defines on its outermost level.

    For source that does not parse: the functions and classes of its lines that begin with ``def``
    or ``class``.
    """
    tree = parsed(code)
    if tree is None:
        heads = [line.split() for line in code.splitlines() if line.startswith(("def ", "class "))]
        return frozenset(words[1].split("(")[0].rstrip(":") for words in heads if len(words) > 1)
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        else:
            names.update(n.id for n in _names(node) if isinstance(n.ctx, ast.Store))
    return frozenset(names)


def used_names(code: str) -> frozenset[str]:
    """The names that Python source reads, at any depth; none for source that does not parse."""
    tree = parsed(code)
    return frozenset() if tree is None else frozenset(node.id for node in _names(tree))


def without_uses(code: str, names: frozenset[str]) -> str:
    """Source whose outermost statements that read one of ``names`` became ``pass``.

    Functions, classes and imports stay.
    """
    tree = parsed(code)
    if tree is None:
        return code
    kept = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    lines = [line.encode() for line in code.split("\n")]  # positions in the tree count bytes
    for node in reversed(tree.body):
        if isinstance(node, kept) or not any(n.id in names for n in _names(node)):
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        lines[first : last + 1] = [before + b"pass" + after]
    return b"\n".join(lines).decode()


def _names(tree: ast.AST) -> Iterator[ast.Name]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Name))


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    tables = [table]
    while tables:
        scope = tables.pop()
        tables += scope.get_children()
        for symbol in scope.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                yield symbol.get_name()


def _imports_everything(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return any(name.id == "NotImplementedError" for name in _names(statement))
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)
