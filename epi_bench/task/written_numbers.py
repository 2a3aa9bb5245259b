"""Numbers as people and models write them: read by value, or by lm-evaluation-harness' filters."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_MOST_DIGITS = 4000
"""Of a number, or of its power of ten, that is calculated with; longer ones are only compared."""

_LONGEST_GAP = 100
"""Characters between a mark and its number."""

_MARKED_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
_ANY_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")

_GAP = " \u00a0\u2009\u202f\u2007"
_NUMBER = re.compile(
    rf"""
    (?P<grouped>
        (?: [1-9]\d{{0,2}}(?:,\d{{3}}){{1,40}} | [1-9]\d?(?:,\d\d){{1,40}},\d{{3}} ) (?:\.\d++)?
      | [1-9]\d{{0,2}} (?P<gap>['’_{_GAP}])\d{{3}}(?:(?P=gap)\d{{3}}){{0,40}} (?:[.,]\d++)?
    ) (?! [.,:]?\d )
  | (?P<dotted> [1-9]\d{{0,2}} (?: (?:\.\d{{3}}){{1,40}},\d++ | (?:\.\d{{3}}){{2,40}} ) )
    (?! [.,:]?\d )
  | (?P<compound>
        \d++(?::\d++)+(?:\.\d++)? | \d++(?:/\d++){{2,}} | \d++(?:-\d++){{2,}} | \d++(?:\.\d++){{2,}}
    )
  | (?P<mixed>\d++)[{_GAP}](?P<numerator>\d++)/(?P<denominator>\d++) (?! [.,:/]?\d )
  | (?<!\d,) (?: (?<![(\[{{]) (?P<comma>\d++,\d++) (?! [.,:]?\d )
               | (?P<inner_comma>\d++,\d++) (?! [.,:]?\d | [)\]}}] ) )
  | (?P<plain> \d++(?:\.\d++)? | (?<![\w.)])\.\d++ )
    """,
    re.VERBOSE,
)
_DENOMINATOR = re.compile(r"/(\d++)(?![.,:/]?\d)")
_EXPONENT = re.compile(r"[eE]([+-]?\d++)(?!\w)")
_TIMES_TEN = re.compile(r"\s?(?:[×xX*·⋅]|\\times|\\cdot)\s?10(?:\^|\*\*)\{?([+-]?\d++)\}?")
_PERCENT = re.compile(r"\s?(?:%|per\s?cent\b|pct\b)", re.IGNORECASE)
_MARK = re.compile(r"(?<!#)####(?!#)|\\boxed\{")
_HEADING = re.compile(r"[.):]\s+[^\W\d]")
_NOT_ON_THE_LINE = re.compile(r"(?:\^|_)\{?-?\Z")  # \Z, as $ would also look over a line's end
_EMPHASIS = re.compile(r"(?<![^\W_])_{1,2}-?\Z")
_LETTERS = re.compile(r"[A-Za-zÀ-\u058f]+\Z")
_CURRENCY_CODES = frozenset(
    {"AUD", "BRL", "CAD", "CHF", "CNY", "DKK", "EUR", "GBP", "HKD", "INR", "JPY", "KRW", "MXN",
     "NOK", "NZD", "PLN", "RM", "RMB", "RUB", "Rs", "SEK", "SGD", "TRY", "US", "USD", "ZAR"}
)  # fmt: skip

_SPELLINGS = str.maketrans(
    {"−": "-", "﹣": "-", "－": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "⁄": "/", "∕": "/",
     "／": "/", "．": ".", "，": ",", "％": "%", "٪": "%", "٫": ".", "٬": ",", "⁻": "-", "⁺": "+"}
)  # fmt: skip
_LATEX = (("{,}", ","), (r"\!", ""), (r"\,", "\u2009"), (r"\%", "%"), (r"\$", "$"))
_LATEX_FRACTION = re.compile(
    r"""
    (?P<whole>\d\s{0,8}+)? \\[cdt]?frac
    (?: \s*+\{\s*+(?P<top>-?\d++)\s*+\} | (?P<top_digit>\s?\d) )
    (?: \s*+\{\s*+(?P<bottom>\d++)\s*+\} | (?P<bottom_digit>\s?\d) )
    """,
    re.VERBOSE,
)
_SUPERSCRIPTS = re.compile(r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number in a text.

    Attributes:
        value: Its exact value; of a number too long to calculate with, the value as a decimal; of
            what is written with digits and no number (a time, date, version), the digits.
        percent: Whether a per cent sign follows; the value is that before the sign.
        start: Where its digits begin, in the text as :func:`written_numbers` reads it.
        end: Where they end.
    """

    value: Fraction | Decimal | str
    percent: bool = False
    start: int = 0
    end: int = 0

    @property
    def is_number(self) -> bool:
        """Whether it is not a time, date or version."""
        return not isinstance(self.value, str)

    def equals(self, other: WrittenNumber) -> bool:
        """Whether both are the same number; 50 % is the number 50 as well as the number 0.5."""
        if self.percent == other.percent:
            return self.value == other.value
        share, plain = (self, other) if self.percent else (other, self)
        if isinstance(share.value, Fraction) and share.value / 100 == plain.value:
            return True
        return share.value == plain.value


def answers_number(text: str, reference: str) -> bool:
    """Whether the number that a text answers with is the reference's last one.

    The text's number is the first after its last mark, ``####`` or ``\\boxed{``; without one, its
    last. Times, dates and versions are compared as they are written, with their like only.
    """
    wanted = list(written_numbers(reference))
    if not wanted:
        return False
    read = _evenly_spelled(text)
    numbers = [n for n in _numbers(read) if n.is_number == wanted[-1].is_number]
    if not numbers:
        return False
    return (_marked(read, numbers) or numbers[-1]).equals(wanted[-1])


def written_numbers(text: str) -> Iterator[WrittenNumber]:
    """The numbers in a text, in their order.

    Decimal digits of every script count. ``1,234``, ``12,34,567``, ``1'234``, ``1_234`` and
    ``1 234`` are thousands (groups of three digits; spaces of any width), ``1.234,56`` and
    ``1.234.567`` as well; ``1.234`` is a decimal number, and so is ``1,5``, except between
    brackets and in ``1,2,3``, which are lists. ``1/2``, ``3 1/2``, ``½`` and ``\\frac{1}{2}`` are
    fractions, ``1e3`` and ``1.5 × 10^3`` powers of ten. A minus sign is one before a number or its
    currency, unless it joins two words or numbers: ``5-10`` is a range. A word after a number is
    its unit. Digits after a letter (``x1``) or a sign of a power or an index are not numbers.
    """
    return _numbers(_evenly_spelled(text))


def _numbers(text: str) -> Iterator[WrittenNumber]:
    match = _NUMBER.search(text)
    while match:
        start, end = _beginning(text, match.start()), match.end()
        if start is not None:
            number = _read(text, match, negative=text[start] == "-")
            end = number.end
            yield number
        match = _NUMBER.search(text, end)


def _evenly_spelled(text: str) -> str:
    """The text with ASCII digits and signs, and LaTeX's and Unicode's fractions written as 1/2."""
    for latex, plain in _LATEX:
        text = text.replace(latex, plain)
    text = _LATEX_FRACTION.sub(_plain_fraction, text)
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), text)
    table: dict[str, str | int | None] = {}
    fractions = ""
    for character in set(text):
        if character.isdecimal():
            table[character] = str(unicodedata.decimal(character))
        elif unicodedata.decomposition(character).startswith("<fraction>"):
            table[character] = unicodedata.normalize("NFKC", character)
            fractions += character
    if fractions:
        text = re.sub(rf"(?<=[\d{fractions}])(?=[{fractions}])", " ", text)
    return text.translate(str.maketrans(table)).translate(_SPELLINGS)


def _plain_fraction(match: re.Match[str]) -> str:
    r"""LaTeX's ``3\frac{1}{2}`` as ``3 1/2``; without braces, TeX takes one digit each."""
    found = match.groupdict()
    whole = f"{found['whole'].rstrip()} " if found["whole"] else ""
    top = found["top"] or found["top_digit"].strip()
    after = " " if match.string[match.end() : match.end() + 1] in tuple("0123456789\\") else ""
    return f"{whole}{top}/{found['bottom'] or found['bottom_digit'].strip()}{after}"


def _beginning(text: str, start: int) -> int | None:
    """Where a number with its sign begins, given where its digits do; ``None`` if it is none."""
    before = text[max(0, start - 8) : start]
    letters = _LETTERS.search(before)
    if letters and letters[0] not in _CURRENCY_CODES:
        return None
    if _NOT_ON_THE_LINE.search(before) and not _is_emphasis(text, start):
        return None
    place = start - (len(letters[0]) if letters else _currency_length(before))
    for sign in (start, place):
        if text[max(0, sign - 1) : sign] == "-" and not _joins(text[max(0, sign - 2) : sign - 1]):
            return sign - 1
    return start


def _currency_length(before: str) -> int:
    """How much before a number is its currency, as in ``US$5`` or ``USD 5``."""
    kept = before.rstrip(_GAP)
    code = _LETTERS.search(kept)
    if code and code[0] in _CURRENCY_CODES:
        return len(before) - code.start()
    if not kept or unicodedata.category(kept[-1]) != "Sc":
        return 0
    kept = kept[:-1]
    country = _LETTERS.search(kept)
    if country and len(country[0]) <= 2:
        kept = kept[: country.start()]
    return len(before) - len(kept)


def _is_emphasis(text: str, start: int) -> bool:
    """Whether an underscore before a number is Markdown's, as in ``_5_``."""
    return _EMPHASIS.search(text[max(0, start - 4) : start]) is not None


def _joins(character: str) -> bool:
    """Whether a hyphen after a character joins what is before and after it."""
    return (character.isalnum() and ord(character) < 0x590) or (character in tuple(".)]}%_-"))


def _read(text: str, match: re.Match[str], *, negative: bool) -> WrittenNumber:
    found = match.groupdict()
    end = match.end()
    if found["compound"]:
        return WrittenNumber(re.sub(r"^0+(?=\d)", "", match[0]), False, match.start(), end)
    value: Fraction | Decimal | str
    if found["mixed"]:
        top, bottom = _value(found["numerator"]), _value(found["denominator"])
        value = _mixed(_value(found["mixed"]), _ratio(top, bottom)) or match[0]
    else:
        written = _with_point(match)
        divisor = _DENOMINATOR.match(text, end) if "." not in written else None
        power = _EXPONENT.match(text, end) or _TIMES_TEN.match(text, end)
        if divisor:
            end = divisor.end()
            value = _ratio(_value(written), _value(divisor[1])) or text[match.start() : end]
        else:
            end = power.end() if power else end
            value = _value(written, power[1] if power else "0")
    if negative and not isinstance(value, str):
        value = -value if isinstance(value, Fraction) else value.copy_negate()
    percent = _PERCENT.match(text, end) is not None
    return WrittenNumber(value, percent, match.start(), end)


def _with_point(match: re.Match[str]) -> str:
    """The digits with a point before the decimals, and without anything between thousands."""
    digits = match[0]
    if match["dotted"]:
        return digits.replace(".", "").replace(",", ".")
    if match["comma"] or match["inner_comma"]:
        return digits.replace(",", ".")
    if match["gap"]:
        return digits.replace(match["gap"], "").replace(",", ".")
    return digits.replace(",", "")


def _value(digits: str, power: str = "0") -> Fraction | Decimal | str:
    """The exact value of digits with at most one point, times a power of ten."""
    whole, _, decimals = digits.partition(".")
    whole, decimals = whole.lstrip("0"), decimals.rstrip("0")
    if not whole and not decimals:
        return Fraction(0)
    written = f"{whole or '0'}.{decimals or '0'}e{power}"
    try:
        number = Decimal(written)
    except InvalidOperation:  # a power of ten beyond every number
        return written
    if len(whole) + len(decimals) > _MOST_DIGITS or abs(number.adjusted()) > _MOST_DIGITS:
        return number
    return Fraction(number)


def _ratio(top: Fraction | Decimal | str, bottom: Fraction | Decimal | str) -> Fraction | None:
    if isinstance(top, Fraction) and isinstance(bottom, Fraction) and bottom:
        return top / bottom
    return None


def _mixed(whole: Fraction | Decimal | str, part: Fraction | None) -> Fraction | None:
    """``3 1/2``; in ``3 10/2`` the two have nothing to do with each other."""
    if part is None or part >= 1 or not isinstance(whole, Fraction):
        return part
    return whole + part


def _marked(text: str, numbers: list[WrittenNumber]) -> WrittenNumber | None:
    """The first number after the last mark that has one on its line; no heading's number."""
    starts = [number.start for number in numbers]
    for mark in reversed(list(_MARK.finditer(text))):
        position = bisect_left(starts, mark.end())
        if position == len(numbers):
            continue
        number = numbers[position]
        between = text[mark.end() : min(number.start, mark.end() + _LONGEST_GAP)]
        if number.start - mark.end() >= _LONGEST_GAP or "\n" in between:
            continue
        words = any(character.isalnum() for character in between)
        if mark[0] == "####" and (words or _HEADING.match(text, number.end)):
            continue
        return number
    return None


def harness_flexible_number(text: str) -> str | None:
    """What filter ``flexible-extract`` of the harness' task takes: the last run of ``0-9$.,``."""
    numbers = _ANY_NUMBER.findall(text)
    return plain_number(numbers[-1]) if numbers else None


def harness_reference_number(reference: str) -> str:
    """The reference's number: after its mark if it has one, else its last, else all of it."""
    number = marked_number(reference)
    if number is None:
        number = harness_flexible_number(reference)
    return plain_number(reference) if number is None else number


def marked_number(text: str) -> str | None:
    """The first number after ``####``, as :func:`plain_number` writes it; ``None`` without one."""
    number = _MARKED_NUMBER.search(text)
    return plain_number(number.group(1)) if number else None


def plain_number(number: str) -> str:
    """A number as the harness compares it: without commas, dollar signs and one trailing dot."""
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", number.strip()))
