"""Text scores: hand-computed values, bounds, and the scorers they are built on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.errors import UserError
from epi_bench.text_scores import TEXT_SCORERS, python_code, score_text, text_scorer

TEXTS = st.text(max_size=60)


def score(name, text, reference):
    return text_scorer(name)(text, reference)


@settings(deadline=None)  # the first call imports the scorer's library
@given(st.sampled_from(sorted(TEXT_SCORERS)), TEXTS, TEXTS)
def test_every_score_lies_between_0_and_1(name, text, reference):
    assert 0 <= score(name, text, reference) <= 1


@settings(deadline=None)
@given(st.sampled_from(["rouge_l", "chrf", "exact_match"]), st.from_regex(r"\w[a-z ]{9,40}\w"))
def test_a_text_is_like_itself(name, text):
    assert score(name, text, text) == pytest.approx(1)


def test_exact_match_looks_past_surrounding_blanks_only():
    assert score("exact_match", " a b\n", "a b") == 1
    assert score("exact_match", "a  b", "a b") == 0
    assert score("exact_match", "A b", "a b") == 0


@pytest.mark.parametrize(
    ("text", "reference", "equal"),
    [
        ("so it is 1,234.50 dollars.", "1234.5", 1),
        ("18.00", "18", 1),
        ("first 3, then 4", "4", 1),
        ("first 3, then 4", "3", 0),
        ("-5", "5", 0),
        ("+5", "5", 1),
        (".5", "0.5", 1),
        ("it is $7.", "#### 7", 1),
        ("none", "7", 0),
        ("none", "none", 0),
        ("", "7", 0),
    ],
)
def test_numbers_are_compared_by_value(text, reference, equal):
    assert score("number_match", text, reference) == equal


def test_rouge_l_by_hand():
    # Longest common subsequence "the cat the mat": 4 of 5 words here, 4 of 6 there.
    text, reference = "the cat near the mat", "the cat sat on the mat"
    precision, recall = 4 / 5, 4 / 6
    expected = 2 * precision * recall / (precision + recall)
    assert score("rouge_l", text, reference) == pytest.approx(expected)


def test_rouge_l_ignores_punctuation_and_does_not_stem():
    assert score("rouge_l", "The Cat!", "the, cat") == 1
    assert score("rouge_l", "cats", "cat") == 0


def test_chrf_by_hand():
    # "abc" against "abd": orders 1 to 3 have 2/3, 1/2 and 0/1 matches, for both texts alike.
    assert score("chrf", "abc", "abd") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-4)
    assert score("chrf", "私は猫", "私は猫") == 1


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("def f(x):\n    return x\n", 1),
        ("def f(x)\n    return x\n", 0),
        ("Here it is:\n```python\nx = 1\n```\nDone, as asked.", 1),
        ("```\nx = 1\n```", 1),
        ("```js\nlet x = 1;\n```\n```py\nx = 1\n```", 1),
        ("```js\nlet x = 1;\n```", 0),
        ("```python\nx = 1\n", 1),
        ("```python\nx = (1\n```", 0),
        ("SELECT * FROM t;", 0),
        ("", 0),
        ("# nothing but a comment", 0),
        ("x = '\\d'", 1),
        ("x = 1\x00", 0),
        ("(" * 5000, 0),
    ],
)
def test_python_is_valid_if_it_parses(text, valid):
    assert score("python_valid", text, "") == valid


def test_code_is_never_run(tmp_path):
    path = tmp_path / "made"
    assert score("python_valid", f"open({str(path)!r}, 'w')", "") == 1
    assert not path.exists()


def test_the_block_marked_as_python_is_the_code():
    assert python_code("```sh\nls\n```\nthen\n```Python\nx = 1\n```") == "x = 1\n"
    assert python_code("x = 1") == "x = 1"


def test_several_scores_at_once():
    assert score_text("18.0", "18", ["number_match", "exact_match"]) == {
        "number_match": 1,
        "exact_match": 0,
    }


def test_an_unknown_scorer_is_named_with_the_closest_one():
    with pytest.raises(UserError, match="unknown text scorer 'rougel': did you mean 'rouge_l'"):
        score_text("a", "b", ["rougel"])
