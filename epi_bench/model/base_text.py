"""Texts on which a base model is measured before it is trained: given ones, and its own.

What a strategy protects before the first step is what the model needs for these texts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.sampling import write_on
from epi_bench.model.text_file import read_text_file, texts_fingerprint

if TYPE_CHECKING:
    import torch
    from torch import nn

NONE, GENERAL, OWN = SOURCES = ("none", "general_text", "self")
"""No text, the run's general text, and text that the model writes itself."""

LONGEST_WINDOW = 128
"""Tokens of an example of a text: short ones give more examples of the same text."""


def read_base_text(source: str) -> tuple[tuple[str, ...], str] | None:
    """The texts of a file, and their SHA-256; ``None`` if the source is no file.

    Args:
        source: ``none``, ``general_text``, ``self``, or the path of a text file, see
            :func:`epi_bench.model.text_file.read_text_file`.

    Raises:
        UserError: If it is none of these, or the file cannot be read, is not UTF-8, or is empty.
    """
    if source in SOURCES:
        return None
    path = text_file(source)
    if path is None:
        close = get_close_matches(source, SOURCES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"protect_base={source!r} is no text file: choose none, general_text or self, or "
            f"give the path of one{hint}"
        )
    texts = read_text_file(path).texts
    return texts, texts_fingerprint(texts)


def text_file(name: str | Path) -> Path | None:
    """The file of a name; ``None`` if there is none."""
    path = Path(name).expanduser()
    try:
        return path if path.is_file() else None
    except OSError:  # longer than any name of a file: a text, perhaps
        return None


def text_windows(
    token_ids: Sequence[int], prefix: Sequence[int], window: int
) -> list[EncodedExample]:
    """A running text as examples that do not overlap, every token supervised but the first.

    Args:
        token_ids: The text.
        prefix: What the tokenizer puts before every text.
        window: Tokens of an example, the prefix among them.
    """
    step = max(window - len(prefix), 2)
    context = max(len(prefix), 1)
    parts = [(*prefix, *token_ids[i : i + step]) for i in range(0, len(token_ids), step)]
    return [
        EncodedExample(part, (False,) * context + (True,) * (len(part) - context))
        for part in parts
        if len(part) > context
    ]


def written_by(
    model: nn.Module,
    *,
    starts: Sequence[Sequence[int]],
    length: int,
    stop: Collection[int],
    generator: torch.Generator,
    batch_size: int = 16,
) -> list[EncodedExample]:
    """Texts that a model writes: each token drawn with the probability that the model gives it.

    Drawn from the model as it is, without temperature or cut, so that the texts are a sample of
    what it knows.

    Args:
        model: A causal language model of transformers.
        starts: What each text begins with, all of one length, at least 1; it is context only.
        length: Most tokens of a text, its beginning among them.
        stop: Token ids that end a text; the one that does is part of it.
        generator: Of the draws, on the CPU.
        batch_size: Texts that are written at once.

    Returns:
        The texts in their order, those left out of which nothing was written.
    """
    endings = frozenset(stop)
    found = []
    for first in range(0, len(starts), batch_size):
        rows = [list(start) for start in starts[first : first + batch_size]]
        context = len(rows[0])
        write_on(model, rows, length - context, lambda new: new[-1] in endings, generator)
        found += [
            EncodedExample(tuple(row), (False,) * context + (True,) * (len(row) - context))
            for row in rows
            if len(row) > context
        ]
    return found
