"""What the templates of task files may contain, and how it is rewritten before it is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.visitor import NodeTransformer

LOOP = "bounded loop"  # this and the following are no identifiers: no template can name them
COMPARE = "comparison by type"
POSITION = "position from the row"

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Call),
    *(nodes.Keyword, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    *(nodes.Concat, nodes.For, nodes.Assign, nodes.List, nodes.Tuple),
)
_FROM_THE_ROW = (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Call)


def permit(node: nodes.Node) -> None:
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


class Bounding(NodeTransformer):
    """Rewrites what Jinja would do unchecked into calls of the checked filters."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node)
        if isinstance(node, nodes.Concat):
            return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")
        if isinstance(node, nodes.Compare):
            chain = [(nodes.Const(o.op, lineno=node.lineno), o.expr) for o in node.ops]
            return _filtered(node.expr, COMPARE, [part for pair in chain for part in pair])
        if isinstance(node, nodes.For):
            node.iter = _filtered(node.iter, LOOP)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, _FROM_THE_ROW):
            node.arg = _filtered(node.arg, POSITION)
        return node


def _filtered(node: Any, name: str, arguments: Sequence[nodes.Expr] = ()) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)
