"""Reading TOML files, and writing the one that repeats a run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from epi_bench.errors import UserError
from epi_bench.foreign_text.terminal import written_out
from epi_bench.spec.defaults import COMPLETE
from epi_bench.spec.run_spec import RunSpec

_HEAD = """\
# Every setting of one run. One that is missing here is left unset, whatever the model's defaults;
# flags override what the file says.
"""


def spec_to_toml(spec: RunSpec, extra: Mapping[str, Any] | None = None) -> str:
    """The TOML text that ``epi-bench run --config`` turns into the same specification.

    Args:
        spec: The run.
        extra: Further top-level tables, such as file locations.
    """
    content = spec.model_dump(mode="json", exclude_none=True)
    text = tomli_w.dumps({COMPLETE: True, **content, **(extra or {})})
    return _HEAD + written_out(text, lambda sign: f"\\U{ord(sign):08x}")


def read_toml_text(path: Path) -> tuple[str, dict[str, Any]]:
    """A TOML file's text and content.

    Raises:
        UserError: If the file is missing or is not TOML; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not a TOML file: it is nested too deeply") from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is not a TOML file: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file; raises as :func:`read_toml_text` does."""
    return read_toml_text(path)[1]


def is_file_name(name: str) -> bool:
    """Whether what a user wrote in place of a name is the path of a TOML file."""
    return name.lower().endswith(".toml")
