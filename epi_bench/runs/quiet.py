"""Other libraries' progress bars and hints, held back while a run shows its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hold them back inside; afterwards transformers talks as it did before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # bars it will not show
        from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
