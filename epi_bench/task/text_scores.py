"""Scores of a text against a reference text, by name, each from 0 (worst) to 1 (best)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from epi_bench.errors import unknown_name
from epi_bench.task.answer_programs import python_code
from epi_bench.task.python_source import read_source
from epi_bench.task.written_numbers import (
    answers_number,
    harness_flexible_number,
    harness_reference_number,
    marked_number,
)

TextScorer = Callable[[str, str], float]
"""Called with the model's text and the reference; returns a score from 0 to 1."""

_SCRIPTS_WITHOUT_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}"
)


def exact_match(text: str, reference: str) -> float:
    """1 if both texts are equal up to surrounding spaces and ways to store the same letters.

    A letter and its accent may be one character or two (Unicode's canonical equivalence, NFC).
    """
    return float(_canonical(text).strip() == _canonical(reference).strip())


def number_match(text: str, reference: str) -> float:
    """1 if the number that the text answers with equals the reference's last number, by value.

    :func:`epi_bench.task.written_numbers.answers_number` tells which number that is, and what
    :func:`~epi_bench.task.written_numbers.written_numbers` reads as one.
    """
    return float(answers_number(text, reference))


def number_strict(text: str, reference: str) -> float:
    """1 if the first number after ``####`` equals the reference's, as in GSM8K.

    Filters and comparison are those of task ``gsm8k`` (version 3) of lm-evaluation-harness:
    thousands commas, dollar signs and one trailing dot are removed, then the strings must be equal
    (so ``18.00`` is not ``18``).
    """
    return float(marked_number(text) == harness_reference_number(reference))


def number_flexible(text: str, reference: str) -> float:
    """1 if the last number of the text equals the reference's; compared as in number_strict."""
    return float(harness_flexible_number(text) == harness_reference_number(reference))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin 2004) of ``rouge-score``, without stemming.

    Tokens are runs of letters and digits, in lower case: for ASCII text those of ``rouge-score``,
    which leaves all other letters out. In scripts that put no spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) each character with its marks is a token. Punctuation and
    symbols do not count.
    """
    return float(_rouge_scorer().score(reference, text)["rougeL"].fmeasure)


def chrf(text: str, reference: str) -> float:
    """Sentence-level chrF2 (Popović 2015) of ``sacrebleu``, divided by 100.

    F-score over character n-grams of orders 1 to 6, spaces left out; works for every script and
    for code. Canonically equivalent texts (NFC) are equal.
    """
    score = _chrf_metric().sentence_score(_canonical(text), [_canonical(reference)]).score
    return float(score) / 100


def python_valid(text: str, _reference: str = "") -> float:
    """1 if the text is Python that parses; nothing is run and the reference is not looked at.

    Where there is prose around the code, :func:`epi_bench.python_code` tells what is looked at.
    Code without any statement does not count.
    """
    return float(read_source(python_code(text)) is not None)


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


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class _WordTokenizer:
    """Words of any script, as ``rouge-score`` expects a tokenizer."""

    def __init__(self) -> None:
        # The module re knows neither scripts nor that vowel signs belong to words.
        import regex

        self._token = regex.compile(
            rf"(?=[{_SCRIPTS_WITHOUT_BLANKS}])[\p{{L}}\p{{N}}]\p{{M}}*"
            rf"|(?:(?![{_SCRIPTS_WITHOUT_BLANKS}])[\p{{L}}\p{{Nd}}]\p{{M}}*)+"
        )

    def tokenize(self, text: str) -> list[str]:
        """The tokens in lower case."""
        tokens: list[str] = self._token.findall(_canonical(_canonical(text).lower()))
        return tokens


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_WordTokenizer())


@lru_cache(maxsize=1)
def _chrf_metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
