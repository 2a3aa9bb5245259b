"""Limits of chat templates, which come with a model and may loop for ever or fill the memory.

The library's sandbox keeps a template from running code, not from running long: loops in loops, and
texts that double in each pass, are possible. Loops are counted here, and texts measured, wherever a
template is rendered; a template within the limits writes the same as without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.environment import Environment
from jinja2.exceptions import TemplateError
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

MOST_PASSES = 1_000_000
"""Passes through all loops while one conversation is rendered."""

LONGEST_TEXT = 10_000_000
"""Characters of a text, or parts of a list, that a template makes by itself."""

MOST_BITS = 10_000
"""Of a power that a template computes."""

_LOOP = "bounded loop"  # this and the following are no identifiers: no template can name them
_JOIN = "bounded join"
_PASSES = "loop passes so far"


class TemplateLimitError(TemplateError):
    """A chat template that runs too long or makes too long a text."""


def limited_template(source: str) -> str:
    """What to give to ``apply_chat_template`` in place of a template, to have it within the limits.

    The library compiles a template once and keeps it. It is given the name of the template here,
    and what it has compiled is filled with the limited one. So it never compiles the template by
    itself: that computes ``'x' * 10**10`` already.

    Args:
        source: The template.

    Returns:
        The name; the template itself with a version of the library that compiles it elsewhere.

    Raises:
        TemplateError: If it cannot be compiled.
    """
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template
    except ImportError:
        return source
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    name = "{{ raise_exception('the chat template " + digest + " is not there') }}"
    compiled = _compile_jinja_template(name)
    if not hasattr(compiled.root_render_func, "limited"):
        _fill(compiled, source)
    return name if _compile_jinja_template(name) is compiled else source


def _fill(compiled: Template, source: str) -> None:
    environment = compiled.environment
    environment.optimized = False
    environment.filters |= {_LOOP: _bounded_loop, _JOIN: _bounded_join}
    _bound_operators(environment)
    tree = _Bounding().visit(environment.parse(source))
    code = environment.compile(tree, filename="<chat template>")
    bounded = Template.from_code(environment, code, environment.make_globals(None))
    compiled.blocks = bounded.blocks
    compiled.root_render_func = _counting(bounded.root_render_func)


class _Bounding(NodeTransformer):
    """Rewrites loops and ``~`` into calls of the filters that count and measure."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  (jinja2's name)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _LOOP, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802  (jinja2's name)
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, _JOIN, [], [], None, None, lineno=node.lineno)


def _counting(render: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    def counted(context: Context, *arguments: Any, **keywords: Any) -> Iterator[str]:
        context.vars[_PASSES] = [0]
        return render(context, *arguments, **keywords)

    counted.limited = True  # type: ignore[attr-defined]
    return counted


@pass_context
def _bounded_loop(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    passes = context.vars.get(_PASSES) or context.parent.get(_PASSES) or [0]
    for value in values:
        passes[0] += 1
        if passes[0] > MOST_PASSES:
            raise TemplateLimitError(f"its loops make more than {MOST_PASSES:,} passes")
        yield value


def _bounded_join(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _check_length(sum(map(len, texts)))
    return "".join(texts)


def _bound_operators(environment: Environment) -> None:
    """Measure sums and multiples of texts and lists before they are made."""
    usual = environment.call_binop  # type: ignore[attr-defined]  # of the sandbox

    def call_binop(context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _check_power(left, right)
        sized = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "+" and len(sized) == 2:
            _check_length(len(left) + len(right))
        if operator == "*" and len(sized) == 1:
            times = right if sized[0] is left else left
            if isinstance(times, int):
                _check_length(len(sized[0]) * times)
        return usual(context, operator, left, right)

    environment.intercepted_binops = frozenset({"+", "*", "**"})  # type: ignore[attr-defined]
    environment.call_binop = call_binop  # type: ignore[attr-defined]


def _check_power(base: Any, exponent: Any) -> None:
    """A number of millions of digits takes minutes."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * exponent > MOST_BITS:
        raise TemplateLimitError("it computes too large a number")


def _check_length(length: int) -> None:
    if length > LONGEST_TEXT:
        raise TemplateLimitError(f"it makes a text of more than {LONGEST_TEXT:,} characters")
