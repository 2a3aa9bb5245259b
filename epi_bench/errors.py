"""The errors that a user can cause and mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user asked for that cannot be done, told in one line with its remedy.

    The command line prints the message and exits with code 2; library callers catch it like any
    exception. Raise it before anything has been written.
    """


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
