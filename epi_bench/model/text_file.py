"""Texts that a user gives in a file: running text, or rows of JSON with a text in each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from epi_bench.errors import UserError
from epi_bench.task.rows.json_rows import read_json_rows

MOST_CHARACTERS = 1_000_000
"""Of a file that is read: far more than is measured on."""

ROW_FILES = (".jsonl", ".json")
"""Ends of the names of files whose rows hold the texts."""

COLUMN = "text"


class FileTexts(NamedTuple):
    """The texts of a file.

    Attributes:
        texts: In their order, none of them empty.
        is_cut: Whether the file has more than :data:`MOST_CHARACTERS`, of which the rest was left
            out.
    """

    texts: tuple[str, ...]
    is_cut: bool


def read_text_file(path: Path) -> FileTexts:
    """The whole of a text file, or the column ``text`` of a JSON Lines file, row by row.

    Args:
        path: The file, UTF-8; it holds rows if its name ends in ``.jsonl`` or ``.json``.

    Raises:
        UserError: If the file cannot be read, is not UTF-8, or holds no text; of rows, if they have
            no column ``text``, or something else in it.

    Example:
        .. code-block:: python

            texts, is_cut = read_text_file(Path("held_out.jsonl"))
    """
    if path.suffix.lower() in ROW_FILES:
        found = _first_characters(_row_texts(path))
    else:
        found = _first_characters([_running_text(path)])
    if not found.texts:
        raise UserError(f"{path} is empty: write some text into it")
    return found


def texts_fingerprint(texts: Sequence[str]) -> str:
    """SHA-256 of texts; of a single one, of its bytes in UTF-8."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _running_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; it must be UTF-8 text") from error
    return text


def _row_texts(path: Path) -> list[str]:
    return [row.code(COLUMN) for row in read_json_rows(path)]


def _first_characters(texts: Sequence[str]) -> FileTexts:
    """As many characters as are measured on; texts of blanks alone are left out."""
    kept: list[str] = []
    left = MOST_CHARACTERS
    for text in texts:
        if left <= 0:
            return FileTexts(tuple(kept), True)
        if text[:left].strip():
            kept.append(text[:left])
        if len(text) > left:
            return FileTexts(tuple(kept), True)
        left -= len(text)
    return FileTexts(tuple(kept), False)
