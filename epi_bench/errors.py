"""The errors that a user can cause and fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from epi_bench.foreign_text import for_terminal

LONGEST_MESSAGE = 500
"""Characters shown of an error message that comes from foreign code."""

LONGEST_LINE = 2000
"""Characters of the message of a :class:`UserError`: a longer one fills a screen."""

LONGEST_VALUE = 60
"""Characters of the longest value that a message repeats."""


class UserError(Exception):
    """Something the user asked for that cannot be done, explained in one line with its remedy.

    The command line prints the message and exits with code 2; library callers catch it like any
    exception. Raise it before anything has been written. What a message quotes of files, models or
    plugins may hold line breaks and terminal codes; they are made visible.

    Args:
        message: One line that says what is wrong, where, and what to do. A setting is called by
            its name in a specification, never by its flag.
        setting: Names of the settings or arguments to change, such as ``"data.max_length"`` or
            ``"data_dir"``. The command line adds the flag of each to the message.

    >>> error = UserError("the prompt is cut: raise data.max_length", setting="data.max_length")
    >>> error.settings
    ('data.max_length',)
    """

    def __init__(self, message: str, *, setting: str | Sequence[str] = ()) -> None:
        super().__init__(_shortened(for_terminal(message)))
        self.settings = (setting,) if isinstance(setting, str) else tuple(setting)


def _shortened(line: str) -> str:
    """A line of bounded length: the place at its beginning and the remedy at its end stay."""
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} ... {line[-half:]}"


def short_repr(value: object) -> str:
    """A value as messages repeat it: as Python writes it, the middle of a long one left out.

    >>> short_repr("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaa'"
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer of thousands of digits"
    if len(text) <= LONGEST_VALUE:
        return text
    half = (LONGEST_VALUE - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def describe_error(error: BaseException) -> str:
    """Type and message of an error that foreign code raised, in one line of bounded length."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  (a plugin's own exception may fail even at this)
        message = "its message cannot be shown"
    line = for_terminal(f"{type(error).__name__}: {message}" if message else type(error).__name__)
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + " ..."


@contextmanager
def foreign_code(doing: str, path: Path | None = None) -> Iterator[None]:
    """Call code that may do anything: whatever it raises but Ctrl-C becomes one ``UserError``.

    Args:
        doing: What fails if it does, such as ``"strategy 'x' cannot be made"``.
        path: The code's file, whose line is named where the error passed through it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except UserError as error:
        line = line_that_raised(error, path) if path else None
        if line is None:
            raise
        raise UserError(f"plugin {path}:{line}: {error}", setting=error.settings) from error
    except BaseException as error:  # a plugin may raise anything, sys.exit() among it
        line = line_that_raised(error, path) if path else None
        where = doing.replace(str(path), f"{path}:{line}", 1) if line else doing
        raise UserError(f"{where}: {describe_error(error)}") from error


def line_that_raised(error: BaseException, path: Path) -> int | None:
    """The line of ``path`` that raised ``error``, if the error passed through that file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


class TrainingFailedError(RuntimeError):
    """A run that started but cannot go on, for example because its loss is not a number."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the closest known names as the remedy.

    Args:
        kind: What was looked for, in the singular, such as ``"strategy"``.
        name: What the user wrote.
        known: Every name that would have been accepted.
    """
    candidates = sorted(known)
    close = get_close_matches(name, candidates, n=3, cutoff=0.5)
    if close:
        remedy = f"did you mean {' or '.join(repr(match) for match in close)}?"
    elif candidates:
        remedy = f"choose from: {', '.join(candidates)}"
    else:
        remedy = "none is available"
    return UserError(f"unknown {kind} {name!r}: {remedy}")


def validation_reason(problem: Mapping[str, Any]) -> str:
    """Why a value is refused, to follow a colon.

    Args:
        problem: One of ``ValidationError.errors()`` of pydantic.
    """
    reason = str(problem["msg"]).removeprefix("Value error, ")
    own = problem["type"] == "value_error"  # written in this package, so that its case is right
    return reason if own else reason[:1].lower() + reason[1:]


def some_of(names: Iterable[str], shown: int = 3) -> str:
    """The first of many names, and how many more there are.

    >>> some_of(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
