"""Reading TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError


def read_toml_text(path: Path) -> tuple[str, dict[str, Any]]:
    """A TOML file's text and content.

    Raises:
        UserError: If the file is missing or is no TOML; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not a TOML file: it is nested too deeply") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is not a TOML file: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file; raises as :func:`read_toml_text` does."""
    return read_toml_text(path)[1]
