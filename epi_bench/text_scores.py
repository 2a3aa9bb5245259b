"""Scores of a text against a reference text, by name, each from 0 (worst) to 1 (best)."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from epi_bench.errors import unknown_name

TextScorer = Callable[[str, str], float]
"""Called with the model's text and the reference; returns a score from 0 to 1."""

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_MARKED_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
_ANY_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_CODE_BLOCK = re.compile(r"```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


def exact_match(text: str, reference: str) -> float:
    """1 if both texts are equal up to surrounding blanks."""
    return float(text.strip() == reference.strip())


def number_match(text: str, reference: str) -> float:
    """1 if the last number of the text equals the last number of the reference.

    Numbers are compared by value: thousands commas, currency signs and trailing zeros do not
    matter.
    """
    wanted = _last_number(reference)
    return float(wanted is not None and _last_number(text) == wanted)


def number_strict(text: str, reference: str) -> float:
    """1 if the first number after ``####`` equals the reference's, as in GSM8K.

    Filters and comparison are those of task ``gsm8k`` (version 3) of lm-evaluation-harness:
    thousands commas, dollar signs and one trailing dot are removed, then the strings must be equal
    (so ``18.00`` is not ``18``).
    """
    number = marked_number(text)
    return float(number is not None and number == _wanted_number(reference))


def number_flexible(text: str, reference: str) -> float:
    """1 if the last number of the text equals the reference's; compared as in number_strict."""
    numbers = _ANY_NUMBER.findall(text)
    return float(bool(numbers) and plain_number(numbers[-1]) == _wanted_number(reference))


def marked_number(text: str) -> str | None:
    """The first number after ``####``, as :func:`plain_number` writes it; ``None`` without one."""
    number = _MARKED_NUMBER.search(text)
    return plain_number(number.group(1)) if number else None


def plain_number(number: str) -> str:
    """A number as it is compared: without commas, dollar signs and one trailing dot."""
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", number.strip()))


def _wanted_number(reference: str) -> str:
    """The reference's number: after its mark if it has one, else its last, else all of it."""
    marked = marked_number(reference)
    if marked is not None:
        return marked
    numbers = _ANY_NUMBER.findall(reference)
    return plain_number(numbers[-1] if numbers else reference)


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin 2004) of ``rouge-score``, without stemming.

    Its tokenizer keeps ASCII letters and digits only, in lower case: punctuation does not count,
    and a text in another script scores 0.
    """
    return float(_rouge_scorer().score(reference, text)["rougeL"].fmeasure)


def chrf(text: str, reference: str) -> float:
    """Sentence-level chrF2 (Popović 2015) of ``sacrebleu``, divided by 100.

    F-score over character n-grams of orders 1 to 6, blanks left out; works for every script and
    for code.
    """
    return float(_chrf_metric().sentence_score(text, [reference]).score) / 100


def python_valid(text: str, _reference: str = "") -> float:
    """1 if the text is Python that parses; nothing is run and the reference is not looked at.

    The first fenced block marked as Python is taken, else the first fenced block, else the whole
    text. Code without any statement does not count.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code, not about the text being code
            return float(bool(ast.parse(python_code(text)).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0


def python_code(text: str) -> str:
    """The code in a text: its first Python block, else its first block, else the whole text."""
    blocks = _CODE_BLOCK.findall(text)
    if not blocks:
        return text
    marked = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    return marked[0] if marked else blocks[0][1]


TEXT_SCORERS: dict[str, TextScorer] = {
    "exact_match": exact_match,
    "number_match": number_match,
    "number_strict": number_strict,
    "number_flexible": number_flexible,
    "rouge_l": rouge_l,
    "chrf": chrf,
    "python_valid": python_valid,
}
"""The scorers by name."""


def score_text(text: str, reference: str, scorers: Iterable[str]) -> dict[str, float]:
    """Several scores of one text, by the scorers' names.

    Args:
        text: What the model wrote.
        reference: The accepted text.
        scorers: Names from :data:`TEXT_SCORERS`.

    Raises:
        UserError: If a scorer is unknown.
    """
    return {name: text_scorer(name)(text, reference) for name in scorers}


def text_scorer(name: str) -> TextScorer:
    """The scorer of that name.

    Raises:
        UserError: If there is none, with the closest known names.
    """
    if name not in TEXT_SCORERS:
        raise unknown_name("text scorer", name, TEXT_SCORERS)
    return TEXT_SCORERS[name]


def _last_number(text: str) -> Decimal | None:
    matches = _NUMBER.findall(text)
    if not matches:
        return None
    try:
        return Decimal(matches[-1].replace(",", ""))
    except InvalidOperation:  # digits that Decimal does not read; no number then
        return None


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


@lru_cache(maxsize=1)
def _chrf_metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
