"""Jinja's sandbox with allow-lists: methods and filters that templates of task files may use."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from epi_bench.task.files.template_filters import (
    bounded_loop,
    check_length,
    checked,
    join,
    plain,
    replace,
    round_number,
)
from epi_bench.task.files.template_syntax import COMPARE, LOOP, POSITION
from epi_bench.task.files.template_values import (
    TESTS,
    Unknown,
    absolute,
    compare_chain,
    decimal_number,
    needed,
    parts_of,
    position,
    whole_number,
)
from epi_bench.task.rows.row import is_missing

LARGEST_NUMBER = 10**15

MISSING = "class of missing values"
"""Variable that holds it; no identifier, so no template can name it."""

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


class TemplateEnvironment(ImmutableSandboxedEnvironment):
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
        return context[MISSING](str(args[0])) if args and is_missing(result) else result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        needed(left)
        needed(right)
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            check_length(len(left) + len(right))
        elif not numbers:
            raise TemplateRuntimeError(
                f"{type(left).__name__} {operator} {type(right).__name__} is not possible in a "
                "template: only numbers are calculated with, and texts are joined with ~"
            )
        elif operator == "*" and max(abs(left), abs(right)) > LARGEST_NUMBER:
            raise TemplateRuntimeError("a number becomes too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=1)
def template_environment() -> TemplateEnvironment:
    """The one environment of all templates."""
    environment = TemplateEnvironment(
        undefined=Unknown,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=plain,
        optimized=False,
    )
    environment.globals.clear()
    usual = environment.filters
    filters = {name: usual[name] for name in _FILTERS}
    filters |= {name: checked(usual[name], plain) for name in _TEXT_FILTERS}
    for name in _LIST_FILTERS:
        filters[name] = checked(usual[name], partial(parts_of, purpose=f"the filter {name}"))
    bounded = {"join": join, "replace": replace, "round": round_number, "string": plain}
    numbers = {"abs": absolute, "int": whole_number, "float": decimal_number}
    rewritten = {COMPARE: compare_chain, POSITION: position, LOOP: bounded_loop}
    environment.filters = {**filters, **bounded, **numbers, **rewritten}
    environment.tests = {**environment.tests, **TESTS}
    return environment
