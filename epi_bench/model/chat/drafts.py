"""Drafts: what a thinking model writes for itself before it answers."""

from __future__ import annotations

import re

DRAFT_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""What begins and ends a draft, in the words of the models that write drafts."""


def without_drafts(text: str) -> str:
    """What a model says, without its drafts.

    A draft without an end is no answer, and neither is anything in it. An end without a beginning
    closes a draft that the prompt has opened.

    Args:
        text: With the marks around drafts as text.
    """
    answer = text
    for opening, closing in DRAFT_MARKS:
        answer = re.sub(f"{re.escape(opening)}.*?{re.escape(closing)}", "", answer, flags=re.DOTALL)
        before, closed, after = answer.partition(closing)
        answer = (after if closed else before).partition(opening)[0]
    return text if answer == text else answer.lstrip("\r\n")
