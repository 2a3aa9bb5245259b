"""From the names of settings and arguments in a message to the flags that set them.

The core speaks of ``data.max_length`` and ``save_model``, as a specification and the Python API
call them; who uses the command line is given the flag beside the name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from epi_bench.errors import UserError

ARGUMENT_FLAGS = {
    "address": "--address",
    "allow_code_execution": "--allow-code-execution",
    "backend": "--backend",
    "cpus_per_run": "--cpus-per-run",
    "data_dir": "--data-dir",
    "lm_eval_path": "--lm-eval-path",
    "force": "--force",
    "gpus_per_run": "--gpus-per-run",
    "jobs": "--jobs",
    "judge.model": "--judge-model",
    "judge.prompts": "--judge-prompts",
    "judge.requests_per_minute": "--judge-rate",
    "judge.url": "--judge-url",
    "keep_model": "--keep-model",
    "length": "--length",
    "out": "--out",
    "plugins": "--plugin",
    "save_model": "--save-model",
    "seeds": "--seeds",
}
"""Flags of what is not a setting of the run, by the name in the Python API."""


def message_of(error: UserError) -> str:
    """The message of an error with the flags of the settings that it names."""
    return with_flags(str(error), error.settings)


def with_flags(text: str, named: Sequence[str] = ()) -> str:
    """A message with the flag behind each setting that it names.

    Dotted names are found in the text; where a name is set (``training.steps=0``), the flag comes
    at the end.

    Args:
        text: One line.
        named: Names of settings and arguments whose flag is added in any case.

    >>> with_flags("the prompt is cut: raise data.max_length")
    'the prompt is cut: raise data.max_length (--max-length)'
    >>> with_flags("training.steps=0: must be positive")
    'training.steps=0: must be positive (--steps)'
    """
    from epi_bench.spec.settings import setting_flags

    flags = {**ARGUMENT_FLAGS, **setting_flags()}
    found = [name for name in flags if "." in name and _places(name, text)]
    for name in dict.fromkeys([*named, *found]):
        flag = flags.get(name)
        if flag and not re.search(rf"{flag}(?![\w-])", text):
            text = _with_flag(text, name, flag)
    return text


def _with_flag(text: str, name: str, flag: str) -> str:
    ends = [place.end() for place in _places(name, text) if text[place.end() :][:1] != "="]
    end = ends[-1] if ends else len(text)
    return f"{text[:end]} ({flag}){text[end:]}"


def _places(name: str, text: str) -> list[re.Match[str]]:
    """Where a name stands as a word of its own, not as a part of a path or a longer name."""
    return list(re.finditer(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)", text))
