"""Templates of task files: Jinja that can only arrange what a row holds.

A task file may come from a stranger, so a template must not be able to run code, and it must not be
able to use up memory or time either. Jinja's sandbox gives the first. For the second, the language
is cut down to what filling in a prompt needs: expressions, ``if``, ``for`` and ``set``, with
filters and methods whose result is never much larger than their input; texts have a longest length,
and loops a number of passes, that a template cannot exceed.

What is missing in a row cannot become text, and comparisons of types that are never equal are
errors; ``template_values`` has these rules. What a template may contain is in ``template_syntax``,
which filters and methods in ``template_environment``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import FilterArgumentError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from epi_bench.task.files.template_environment import MISSING, template_environment
from epi_bench.task.files.template_filters import PASSES, check_length
from epi_bench.task.files.template_syntax import Bounding, permit
from epi_bench.task.files.template_values import (
    Missing,
    MissingValueError,
    OptionalMissing,
    with_missing,
)
from epi_bench.task.rows.text_files import lone_surrogate

LONGEST_TEMPLATE = 20_000
"""Characters of a template."""


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

    >>> TextTemplate("{{ question | upper }}?").render({"question": "why"})
    'WHY?'

    Args:
        source: Its text. One line break at its end does not count.
        optional_values: Whether ``if`` finds a missing value false, so that a part of the text can
            be left out. Otherwise its truth is as missing as the value: a label must not be "no"
            because nobody knows.

    Raises:
        TextTemplateError: If it is not Jinja, or uses what templates of task files may not.
    """

    def __init__(self, source: str, optional_values: bool = True) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise TextTemplateError(
                f"the template has {len(source):,} characters, more than {LONGEST_TEMPLATE:,}"
            )
        environment = template_environment()
        try:
            tree = environment.parse(source)
            for node in tree.find_all(nodes.Node):
                permit(node)
            self.variables = frozenset(find_undeclared_variables(tree))
            code = environment.compile(Bounding().visit(tree), filename=_FILE_NAME)
        except TemplateSyntaxError as error:
            raise TextTemplateError(str(error.message), error.lineno) from error
        except (RecursionError, SyntaxError) as error:  # Python nests only so many blocks
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
                check_length(length)
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
        return {**marked, PASSES: [0], MISSING: self._missing}


_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What Jinja's filters and Python's operators raise for values that do not suit them."""

_FILE_NAME = "<task template>"


def _line(error: BaseException) -> int | None:
    """The template's line that failed; Jinja writes it into the traceback."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
