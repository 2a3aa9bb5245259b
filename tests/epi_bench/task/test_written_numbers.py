"""Numbers in texts, by value; beside each pair, what the filters of the evaluation harness find."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.task.text_scores import number_flexible, number_match
from epi_bench.task.written_numbers import written_numbers

# Text, reference, whether they are the same number, and whether flexible-extract of
# lm-evaluation-harness' task gsm8k says so.
PAIRS = [
    # plain numbers, units, marks
    ("the answer is 5 apples", "5", 1, 1),
    ("5.", "5", 1, 1),
    ("5.00", "5", 1, 0),
    ("05", "5", 1, 0),
    (".5", "0.5", 1, 0),
    ("-.5", "-0.5", 1, 0),
    ("0.50", ".5", 1, 0),
    ("**5**", "5", 1, 1),
    ("_5_", "5", 1, 1),
    ("`5`", "5", 1, 1),
    ("(5)", "5", 1, 1),
    ("the answer is\n5", "5", 1, 1),
    ("x_\n5", "5", 1, 1),
    ("5km", "5", 1, 1),
    ("5°C", "5", 1, 1),
    ("the 1st", "1", 1, 1),
    ("25 m²", "25", 1, 1),
    ("25 cm^2", "25", 1, 0),
    ("5 in x_1, y2 and z_{3}", "5", 1, 0),
    ("first 3, then 4", "4", 1, 1),
    ("first 3, then 4", "3", 0, 0),
    ("1, 2, 3", "3", 1, 1),
    ("1,2,3", "3", 1, 0),
    ("(3,4)", "4", 1, 0),
    ("1.2.3", "3", 0, 0),
    ("5 minutes, at 10:30", "5", 1, 0),
    ("10:30", "10:30", 1, 1),
    ("10:31", "10:30", 0, 0),
    ("30", "10:30", 0, 1),
    ("on 2026-03-01", "1", 0, 0),
    ("5, as of 1/3/2026", "5", 1, 0),
    ("none", "7", 0, 0),
    ("none", "none", 0, 0),
    ("inf", "inf", 0, 0),
    ("", "7", 0, 0),
    # signs
    ("-5", "-5", 1, 1),
    ("-5", "5", 0, 0),
    ("+5", "5", 1, 1),
    ("−5", "-5", 1, 0),
    ("–5", "-5", 1, 0),
    ("x=-5", "-5", 1, 1),
    ("x = −5.0", "-5", 1, 0),
    ("是-5", "-5", 1, 1),
    ("5-10", "10", 1, 0),
    ("5–10", "10", 1, 1),
    ("5-10", "-10", 0, 1),
    ("5 - 10", "10", 1, 1),
    ("10%-20%", "20", 1, 0),
    ("page A-5", "5", 1, 0),
    ("GPT-4", "4", 1, 0),
    ("- 5 apples", "5", 1, 1),
    # currency
    ("$5.00", "5", 1, 0),
    ("$-5", "-5", 1, 1),
    ("-$5", "-5", 1, 1),
    ("−€5", "-5", 1, 0),
    ("-US$5", "-5", 1, 0),
    ("-USD 5", "-5", 1, 0),
    ("$5-$10", "10", 1, 0),
    ("5 €", "5", 1, 1),
    ("USD5", "5", 1, 1),
    ("Rs.500", "500", 1, 0),
    ("$-5$", "-5", 1, 1),
    # thousands and decimals
    ("1,234", "1234", 1, 1),
    ("1,234,567.50", "1234567.5", 1, 0),
    ("12,34,567", "1234567", 1, 1),
    ("1.234,56", "1234.56", 1, 0),
    ("1.234.567", "1234567", 1, 0),
    ("1.234", "1.234", 1, 1),
    ("1.234", "1234", 0, 0),
    ("1'234", "1234", 1, 0),
    ("1’234.5", "1234.5", 1, 0),
    ("1 234", "1234", 1, 0),
    ("1\u202f234\u202f567", "1234567", 1, 0),
    ("1\u00a0234,5", "1234.5", 1, 0),
    ("1_000", "1000", 1, 0),
    ("in 2023 400 people", "400", 1, 1),
    ("1,5", "1.5", 1, 0),
    ("1,5", "15", 0, 1),
    ("12,50 €", "12.5", 1, 0),
    ("0,123", "0.123", 1, 0),
    # powers, percent, fractions
    ("1e3", "1000", 1, 0),
    ("1.5e-3", "0.0015", 1, 0),
    ("3 × 10^5", "300000", 1, 0),
    ("3×10⁻²", "0.03", 1, 0),
    (r"3 \times 10^{5}", "300000", 1, 0),
    ("1e99999999999999999999", "1", 0, 0),
    ("50%", "50", 1, 1),
    ("50%", "0.5", 1, 0),
    ("0.5", "50%", 1, 0),
    ("50 percent", "50%", 1, 1),
    ("0.5%", "50%", 0, 0),
    (r"50\%", "50", 1, 1),
    ("1/2", "0.5", 1, 0),
    ("0.5", "1/2", 1, 0),
    ("2/4", "1/2", 1, 0),
    ("1/3", "0.3333333333333333", 0, 0),
    ("1/2", "2", 0, 1),
    ("-1/2", "-0.5", 1, 0),
    ("3 1/2", "3.5", 1, 0),
    ("½", "0.5", 1, 0),
    ("3½ cups", "3.5", 1, 0),
    (r"\frac{1}{2}", "0.5", 1, 0),
    (r"3\dfrac{1}{2}", "3.5", 1, 0),
    (r"the answer is \frac{1}{2}", "0.5", 1, 0),
    (r"the answer is \frac{-1}{2}", "-0.5", 1, 0),
    (r"13 \frac{1}{2}", "13.5", 1, 0),
    (r"\boxed{\frac12}", "0.5", 1, 0),
    (r"\frac{1}{2}\frac{1}{3}", "1/3", 1, 1),
    ("5/0", "5/0", 1, 1),
    ("5/0", "5", 0, 0),
    # marks
    ("#### 1,000", "1000", 1, 1),
    ("#### 976 of 1000", "976", 1, 0),
    ("#### $18, as checked in 2 ways.", "18", 1, 0),
    ("#### Step 2\nso it is 7", "7", 1, 1),
    ("#### 3. Conclusion\nso it is 7", "7", 1, 1),
    ("#### 3\n#### 4", "4", 1, 1),
    (r"\boxed{18} in 2 ways", "18", 1, 0),
    (r"\boxed{x = -5}.", "-5", 1, 1),
    ("it is $7.", "#### 7", 1, 1),
    # exact, and in other digits
    ("0.1", "0.10000000000000001", 0, 0),
    ("9007199254740993", "9007199254740992", 0, 0),
    ("9" * 5000, "9" * 5000 + ".0", 1, 0),
    ("9" * 5000, "9" * 4999 + "8", 0, 0),
    ("1" + "0" * 5000, "1e5000", 1, 0),
    ("٣٤", "34", 1, 0),
    ("１，２３４", "1234", 1, 0),
]


def test_there_are_enough_pairs():
    assert len(PAIRS) >= 60


@pytest.mark.parametrize(("text", "reference", "equal", "harness"), PAIRS)
def test_numbers_are_compared_by_value(text, reference, equal, harness):
    assert number_match(text, reference) == equal
    assert number_flexible(text, reference) == harness


def values(text):
    return [number.value for number in written_numbers(text)]


def test_all_numbers_of_a_text_in_their_order():
    text = "From 1,200 (-5 %) to $3.50, 1/2 of x2 at 9:05; v1.2 is 2^10 or 1.5e1."
    assert values(text) == [1200, -5, Fraction(7, 2), Fraction(1, 2), "9:05", 2, 15]
    assert [number.percent for number in written_numbers(text)].count(True) == 1


FINITE = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12)


@settings(deadline=None)
@given(FINITE, st.sampled_from(["", "$", "so ", "**", "= ", "#### "]))
def test_what_python_writes_is_read_as_it_was(number, before):
    wanted = Fraction(number)
    assert values(f"{before}{number}") == [wanted]
    assert values(f"{before}{number:,f}.") == [wanted]
    assert values(before + f"{number:,f}".replace(",", "_") + " km") == [wanted]
    assert values(f"{before}{number:.3e}") == [Fraction(f"{number:.3e}")]


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_fractions_are_read_as_they_were(number):
    assert values(f"it is {number}") == [number]


@settings(deadline=None)
@given(st.text(alphabet="0123456789.,/:-+ eE%$½x^_{}#\\'\n٣−", max_size=40))
def test_a_text_with_a_number_answers_itself_and_no_text_is_an_error(text):
    assert number_match(text, f"{text}\n7") in (0, 1)
    assert number_match(f"{text}\nso 7", "7") == 1 or "####" in text or "boxed" in text
    for number in written_numbers(text):
        assert number.equals(number)


@pytest.mark.parametrize(
    "text",
    ["1" * 300_000, "1" + ",234" * 10_000 + "5", "1" + ",23" * 10_000, "1." * 150_000,
     "1:" * 150_000, "1/" * 150_000, "-" * 300_000, "$" * 300_000, "\\boxed{" * 43_000,
     "####\n" * 60_000, "1e" + "9" * 300_000, "\\frac{" * 50_000,
     " " * 300_000 + "5"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_no_text_takes_long(text):
    started = time.process_time()
    number_match(text, text)
    assert time.process_time() - started < 2
