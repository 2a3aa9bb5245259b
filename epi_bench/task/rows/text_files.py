"""The text of a data file: unpacked, and in UTF-8 or refused with a message that names the kind."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError

_NO_TEXT = {
    b"\x1f\x8b": "is compressed: its name must end in .gz",
    b"PK\x03\x04": "is a ZIP archive or an Excel file: save its rows as text",
    b"PAR1": "is a Parquet file: its name must end in .parquet",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class FileText:
    """What a file holds.

    Attributes:
        content: Its text, without a byte order mark.
        broken: Whether bytes of it are no UTF-8. They stand in ``content`` as lone surrogates, so
            that the reader can go on to the row that holds them; see :func:`undecoded_byte`.
    """

    content: str
    broken: bool


def read_text(path: Path, shown: str) -> FileText:
    """The text of a file.

    Args:
        path: The file; compressed if its name ends in ``.gz``.
        shown: What messages call it.

    Raises:
        UserError: If it cannot be read or unpacked, or is text in another encoding than UTF-8.
    """
    content = _read_bytes(path, shown)
    for signature, remedy in _NO_TEXT.items():
        if content.startswith(signature):
            raise UserError(f"{shown} {remedy}")
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise UserError(f"{shown} is {name} text: save it as UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return FileText(content.decode("utf-8"), broken=False)
    except UnicodeDecodeError:
        return FileText(content.decode("utf-8", "surrogateescape"), broken=True)


def undecoded_byte(text: str) -> str | None:
    """What is wrong with a part of a broken file; ``None`` if this part is fine."""
    found = _SURROGATE.search(text)
    return f"not UTF-8 text: byte 0x{ord(found[0]) - 0xDC00:02x}" if found else None


def lone_surrogate(text: str) -> str | None:
    """What is wrong with a text that holds half of a surrogate pair; ``None`` if it is fine.

    Such a text is no Unicode: it cannot be written, hashed or encoded into tokens.
    """
    found = None if text.isascii() else _SURROGATE.search(text)
    return f"no Unicode text: \\u{ord(found[0]):04x} is half of a pair" if found else None


def shown_path(path: Path, relative_to: Path | None) -> str:
    """What messages call a file: its path, without the folder that the reader knows."""
    if relative_to is not None and path.is_relative_to(relative_to.expanduser()):
        return str(path.relative_to(relative_to.expanduser()))
    return str(path)


def _read_bytes(path: Path, shown: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror or error}") from error
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown} cannot be decompressed: {error}") from error
