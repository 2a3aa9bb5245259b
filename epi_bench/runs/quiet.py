"""Other libraries' progress bars and hints, held back while a run shows its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIBRARIES = "accelerate|avalanche|datasets|huggingface_hub|peft|pydantic|ray|tokenizers|torch"
_LIBRARIES += "|transformers"

_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Read by the libraries when they are imported; the bars are those of downloads, of tables that are
read and of quantised weights that are converted."""


def hold_back_libraries() -> None:
    """Hold them back for the whole process and those that it starts; call it before they are there.

    For a program of its own, such as the command line: what a user has set in the environment
    stays. Warnings about what will change in a library concern its programmers, so those that its
    own modules cause are not shown; every other warning is.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _ignore_future_warnings()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hold them back inside; afterwards they talk as they did before."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            _ignore_future_warnings()
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _ignore_future_warnings() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module=rf"({_LIBRARIES})(\.|$)")
