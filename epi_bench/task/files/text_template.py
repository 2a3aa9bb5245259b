"""Templates of task files: Jinja that can only arrange what a row holds.

A task file may come from a stranger, so a template must not be able to run code, and it must not be
able to use up memory or time either. Jinja's sandbox gives the first. For the second, the language
is cut down to what filling in a prompt needs: expressions, ``if``, ``for`` and ``set``, with
filters and methods whose result is never much larger than their input; texts have a longest length,
and loops a number of passes, that a template cannot exceed.

What is missing in a row cannot become text, and comparisons of types that are never equal are
errors; ``template_values`` has these rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache, partial, wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import FilterArgumentError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from epi_bench.task.files.template_values import (
    TESTS,
    Missing,
    MissingValueError,
    OptionalMissing,
    Unknown,
    absolute,
    compare_chain,
    decimal_number,
    needed,
    parts_of,
    position,
    whole_number,
    with_missing,
)
from epi_bench.task.rows.row import is_missing
from epi_bench.task.rows.text_files import lone_surrogate

LONGEST_TEMPLATE = 20_000
"""Characters of a template."""

LONGEST_TEXT = 1_000_000
"""Characters of a text that a template makes, or of any text on the way there."""

MOST_PASSES = 100_000
"""Passes through all loops of one rendering."""

LARGEST_NUMBER = 10**15

_PLAIN = (str, int, float, bool, Decimal, date, datetime, time)
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Call),
    *(nodes.Keyword, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    *(nodes.Concat, nodes.For, nodes.Assign, nodes.List, nodes.Tuple),
)
_FILTERS = (
    "count", "d", "default", "first", "last", "length", "list", "reverse", "sort", "unique",
)  # fmt: skip
_TEXT_FILTERS = ("capitalize", "lower", "title", "trim", "truncate", "upper", "wordcount")
_LIST_FILTERS = ("map", "reject", "rejectattr", "select", "selectattr")
_TEXT_METHODS = (
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle",
    "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
)  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}


class TextTemplateError(Exception):
    """A template that cannot be used, or cannot be filled in.

    Attributes:
        problem: What is wrong, without the place.
        line: Line of the template, from 1; ``None`` if it is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class TextTemplate:
    """A compiled template.

    Args:
        source: Its text. One line break at its end does not count.
        optional_values: Whether ``if`` finds a missing value false, so that a part of the text can
            be left out. Otherwise its truth is as missing as the value: a label must not be "no"
            because nobody knows.

    Raises:
        TextTemplateError: If it is no Jinja, or uses what templates of task files may not.
    """

    def __init__(self, source: str, optional_values: bool = True) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise TextTemplateError(
                f"the template has {len(source):,} characters, more than {LONGEST_TEMPLATE:,}"
            )
        environment = _environment()
        try:
            tree = environment.parse(source)
            for node in tree.find_all(nodes.Node):
                _permit(node)
            self.variables = frozenset(find_undeclared_variables(tree))
            code = environment.compile(_Bounding().visit(tree), filename=_FILE_NAME)
        except TemplateSyntaxError as error:
            raise TextTemplateError(str(error.message), error.lineno) from error
        except RecursionError as error:
            raise TextTemplateError("the template is nested too deeply") from error
        self._missing = OptionalMissing if optional_values else Missing
        self._template = Template.from_code(environment, code, environment.make_globals(None))

    variables: frozenset[str]
    """Names that the template takes from its surroundings."""

    def render(self, values: Mapping[str, Any]) -> str:
        """The template filled in.

        Args:
            values: Variables by name.

        Raises:
            MissingValueError: If the text needs a value that is missing.
            TextTemplateError: If a variable is missing, an operation fails, or a bound is exceeded.
        """
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(self._variables(values)):
                length += len(piece)
                _bound(length)
                pieces.append(piece)
        except MissingValueError:
            raise
        except (TemplateError, FilterArgumentError) as error:
            raise TextTemplateError(str(error.message or error), _line(error)) from error
        except _FAILURES as error:
            raise TextTemplateError(f"{type(error).__name__}: {error}", _line(error)) from error
        except RecursionError as error:
            raise TextTemplateError("the values are nested too deeply") from error
        text = "".join(pieces)
        if defect := lone_surrogate(text):
            raise TextTemplateError(f"the text is {defect}")
        return text

    def _variables(self, values: Mapping[str, Any]) -> dict[str, Any]:
        used = {name: values[name] for name in self.variables if name in values}
        marked = {name: with_missing(value, name, self._missing) for name, value in used.items()}
        return {**marked, _PASSES: [0], _MISSING: self._missing}


_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What Jinja's filters and Python's operators raise for values that do not suit them."""

_FILE_NAME = "<task template>"
_LOOP = "bounded loop"  # this and the following are no identifiers: no template can name them
_COMPARE = "comparison by type"
_POSITION = "position from the row"
_FROM_THE_ROW = (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Call)
_PASSES = "loop passes so far"
_MISSING = "class of missing values"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with allow-lists of methods and checked arithmetic."""

    intercepted_binops = frozenset({"+", "*", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in known for kind, known in _METHODS.items())

    def wrap_str_format(self, value: Any) -> None:
        """Nothing: ``format`` pads to any width, so it is refused as every unlisted method is."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise TemplateRuntimeError(
            f"{attribute!r} of a {type(obj).__name__} cannot be used in a template"
        )

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A method's result; ``get`` of a dictionary may find nothing."""
        if getattr(obj, "__name__", "") != "get":  # whose default may be missing
            for value in (*args, *kwargs.values()):
                needed(value)
        result = super().call(context, obj, *args, **kwargs)
        return context[_MISSING](str(args[0])) if args and is_missing(result) else result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        needed(left)
        needed(right)
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _bound(len(left) + len(right))
        elif not numbers:
            raise TemplateRuntimeError(
                f"{type(left).__name__} {operator} {type(right).__name__} is not possible in a "
                "template: only numbers are calculated with, and texts are joined with ~"
            )
        elif operator == "*" and max(abs(left), abs(right)) > LARGEST_NUMBER:
            raise TemplateRuntimeError("a number becomes too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        undefined=Unknown,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
        optimized=False,
    )
    environment.globals.clear()
    usual = environment.filters
    filters = {name: usual[name] for name in _FILTERS}
    filters |= {name: _checked(usual[name], _plain) for name in _TEXT_FILTERS}
    for name in _LIST_FILTERS:
        filters[name] = _checked(usual[name], partial(parts_of, purpose=f"the filter {name}"))
    bounded = {"join": _join, "replace": _replace, "round": _round, "string": _plain}
    numbers = {"abs": absolute, "int": whole_number, "float": decimal_number}
    rewritten = {_COMPARE: compare_chain, _POSITION: position, _LOOP: _bounded_loop}
    environment.filters = {**filters, **bounded, **numbers, **rewritten}
    environment.tests = {**environment.tests, **TESTS}
    return environment


def _checked(function: Callable[..., Any], check: Callable[[Any], Any]) -> Callable[..., Any]:
    """One of Jinja's filters, which makes text of anything, for values that pass a check."""
    before = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or environment

    @wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        value = check(arguments[before])
        return function(*arguments[:before], value, *arguments[before + 1 :], **keywords)

    return checked


class _Bounding(NodeTransformer):
    """Rewrites what Jinja would do unchecked into calls of the checked filters."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node)
        if isinstance(node, nodes.Concat):
            return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")
        if isinstance(node, nodes.Compare):
            chain = [(nodes.Const(o.op, lineno=node.lineno), o.expr) for o in node.ops]
            return _filtered(node.expr, _COMPARE, [part for pair in chain for part in pair])
        if isinstance(node, nodes.For):
            node.iter = _filtered(node.iter, _LOOP)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, _FROM_THE_ROW):
            node.arg = _filtered(node.arg, _POSITION)
        return node


def _filtered(node: Any, name: str, arguments: Sequence[nodes.Expr] = ()) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _permit(node: nodes.Node) -> None:
    """Refuse what templates of task files do not need."""
    problem = None
    if not isinstance(node, _NODES):
        problem = f"{type(node).__name__.lower()} is not part of the templates of task files"
    elif isinstance(node, nodes.For) and node.recursive:
        problem = "a loop cannot be recursive"
    elif isinstance(node, nodes.List | nodes.Tuple) and getattr(node, "ctx", "load") == "load":
        # Lists of variables could be nested again and again, each time twice as large.
        if not all(isinstance(item, nodes.Const) for item in node.items):
            problem = "a list can only hold constants"
    elif isinstance(node, nodes.Call) and not isinstance(node.node, nodes.Getattr):
        name = node.node.name if isinstance(node.node, nodes.Name) else "this"
        problem = f"{name}() cannot be called: there are filters and methods, but no functions"
    if problem:
        raise TemplateSyntaxError(problem, getattr(node, "lineno", None) or 1)


def _plain(value: Any) -> str:
    """A value as text."""
    if is_missing(value):
        raise MissingValueError("no value for a part of the text")
    needed(value)
    if isinstance(value, float) and math.isinf(value):
        raise TemplateRuntimeError("an infinite number is no text")
    if not isinstance(value, _PLAIN):
        kind = type(value).__name__
        raise TemplateRuntimeError(f"a {kind} is no text: pick a part of it, or join it")
    return str(value)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """The values' texts with the separator between them."""
    parts: list[str] = []
    length = 0
    for value in parts_of(values, "join"):
        item = value.get(attribute) if attribute and isinstance(value, dict) else value
        parts.append(_plain(item))
        length += len(parts[-1]) + len(separator)
        _bound(length)
    return separator.join(parts)


def _replace(text: Any, old: str, new: str) -> str:
    """The text with each occurrence of ``old`` replaced."""
    plain = _plain(text)
    _bound(len(plain) + plain.count(old) * len(new))
    return plain.replace(old, new)


def _round(value: Any, digits: int = 0) -> float:
    """The number rounded to at most 15 digits after the point."""
    return round(decimal_number(value), max(0, min(digits, 15)))


@pass_context
def _bounded_loop(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    passes = context[_PASSES]
    for value in parts_of(values, "the loop"):
        passes[0] += 1
        if passes[0] > MOST_PASSES:
            raise TemplateRuntimeError(f"loops make more than {MOST_PASSES:,} passes")
        yield value


def _bound(length: int) -> None:
    if length > LONGEST_TEXT:
        raise TemplateRuntimeError(f"the text becomes longer than {LONGEST_TEXT:,} characters")


def _line(error: BaseException) -> int | None:
    """The template's line that failed; Jinja writes it into the traceback."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
