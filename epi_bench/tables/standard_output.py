"""Standard output that stops nothing: what is shown of a run is not its result.

A pipe whose reader has gone, a full disk behind a redirection, a terminal that was closed, a
character that the terminal's encoding does not have: each would raise an error in the middle of a
run, wherever the next line happens to be printed. Inside :func:`lasting_output` none does.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = {
    **dict.fromkeys("─━═╌╍┄┅┈┉╴╶╸╺╼╾–—−‐‑‒·", "-"),
    **dict.fromkeys("│┃║╎╏┆┇┊┋╵╷╹╻╽╿", "|"),
    **dict.fromkeys("★•✓", "*"),
    **dict.fromkeys("“”„«»", '"'),
    "⟦": "[",
    "⟧": "]",
    "‘": "'",
    "’": "'",
    "±": "~",
    "×": "x",
    "†": "+",
    "‡": "#",
    "…": ".",
}
"""What stands for a sign in an encoding without it: one character, so that tables stay aligned."""

_ERRORS = "epi_bench.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Encode a character that the encoding does not have: its stand-in, or ``\\u00e9``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_stand_in(sign) for sign in signs), error.end


def _stand_in(sign: str) -> str:
    if "\u2500" <= sign <= "\u257f":  # what else boxes are drawn with: corners and crossings
        return PLAIN.get(sign, "+")
    return PLAIN.get(sign) or escaped(sign)


codecs.register_error(_ERRORS, _plain)


def escaped(text: str) -> str:
    """A text in ASCII, its other characters as JSON's strings write them.

    >>> escaped("é")
    '\\\\u00e9'
    """
    units = text.encode("utf-16-be", "surrogatepass")
    pairs = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(unit) if unit < 128 else f"\\u{unit:04x}" for unit in pairs)


class LastingStream(io.TextIOBase):
    """A text stream that takes whatever is written, also when the one behind it fails.

    After a failure nothing more is written. What the encoding does not have is written plainly.

    Args:
        stream: Where the text goes; ``None`` if the process was started without it.

    Attributes:
        failure: The error that ended the writing, if there was one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: OSError | ValueError | None = None
        self._stream: Any = stream
        self._errors_before = getattr(stream, "errors", None) or "strict"
        self._set_errors(_ERRORS)

    def __getattr__(self, name: str) -> Any:
        # Typer writes UTF-8 past a stream in ASCII where it finds what lies behind it
        if name == "buffer" and self.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How characters are handled that the encoding does not have."""
        return _ERRORS

    def write(self, text: str) -> int:
        """Write, unless writing has failed before."""
        if self._stream is not None and self.failure is None:
            with self._noting_failure():
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:  # of a stream that could not be told how to encode
                    encoding = self.encoding
                    self._stream.write(text.encode(encoding, _ERRORS).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Pass on what is held back."""
        if self._stream is not None and self.failure is None:
            with self._noting_failure():
                self._stream.flush()

    def writable(self) -> bool:
        """It is, whatever happens."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        with suppress(OSError, ValueError):
            return self._stream is not None and bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        """Of the stream behind.

        Raises:
            OSError: If it has none.
        """
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def release(self) -> None:
        """Write what is held back, and leave the stream behind as it was."""
        self.flush()
        self._set_errors(self._errors_before)

    def _set_errors(self, errors: str) -> None:
        if isinstance(self._stream, io.TextIOWrapper) and not self._stream.closed:
            with self._noting_failure():
                self._stream.reconfigure(errors=errors)

    def close(self) -> None:
        """Leave the stream behind open: it belongs to the process."""

    def __del__(self) -> None:
        """Nothing, for the same reason."""

    @property
    def has_lost_text(self) -> bool:
        """Whether somebody still waits for what was not written.

        The reader of a pipe who leaves has seen what he wanted to see.
        """
        return self.failure is not None and not isinstance(self.failure, BrokenPipeError)

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.failure = error
            self._discard_the_rest()

    def _discard_the_rest(self) -> None:
        """Give the stream a place for what it still holds back, or it fails when Python ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def reason_of(failure: OSError | ValueError) -> str:
    """Why a stream failed, in words."""
    if isinstance(failure, OSError) and failure.errno == errno.EIO:
        return "its terminal has gone"
    return getattr(failure, "strerror", None) or str(failure)


@contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Inside, nothing that is printed to the standard streams raises an error.

    Returns:
        The standard output.

    >>> with lasting_output() as output:
    ...     print("·", file=output)
    ·
    """
    streams = sys.stdout, sys.stderr
    _fill_missing_descriptors()
    output, errors = map(LastingStream, streams)
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        for lasting in (output, errors):
            lasting.release()
        sys.stdout, sys.stderr = streams


def _fill_missing_descriptors() -> None:
    """Where the process was started without a standard stream, a file would take its number.

    Then what a library writes to that number would go into the file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
