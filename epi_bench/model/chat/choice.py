"""What makes the options of one question comparable: the same context, and outcomes that exclude
each other.

- **One context.** All options follow the same tokens. Where a tokenizer merges the prompt's last
  space into the first token of some options, that space belongs to every option (as in
  lm-evaluation-harness). A prompt that is too long is cut once, for the longest option.
- **Outcomes that exclude each other.** Whoever says ``yes, because`` has said ``yes``, so ``yes``
  can never be the less likely of the two. Where one option begins another, every option of the
  question is scored with its end of turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

Tokens = Sequence[int]


def share_context(rows: Sequence[tuple[Tokens, int]]) -> tuple[list[int], list[list[int]]]:
    """The context that all options have, and what follows it in each.

    Args:
        rows: For each option all its tokens, and how many of them are before the option.
    """
    contexts = [tokens[:start] for tokens, start in rows]
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*contexts, strict=False))
    context = [column[0] for column in columns]
    return context, [list(tokens[len(context) :]) for tokens, _ in rows]


def begins_another(continuations: Sequence[Tokens]) -> bool:
    """Whether one of some continuations is the beginning of a longer one."""
    ordered = sorted(tuple(tokens) for tokens in continuations)
    return any(
        len(one) < len(next_one) and next_one[: len(one)] == one
        for position, one in enumerate(ordered)
        for next_one in ordered[position + 1 :]
    )
