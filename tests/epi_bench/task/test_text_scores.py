"""Text scores: hand-computed values, bounds, and the scorers they are built on."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from epi_bench.errors import UserError
from epi_bench.task.text_scores import TEXT_SCORERS, score_text, text_scorer

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


@pytest.mark.parametrize("name", ["exact_match", "rouge_l", "chrf"])
@pytest.mark.parametrize(
    "text",
    ["café", "Việt Nam", "한국어 문장", "ñandú ÅÅÅ", "ἄνθρωπος", "ガギグ がぎぐ"],
)
def test_an_accent_may_be_a_character_of_its_own(name, text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert score(name, composed, decomposed) == pytest.approx(1)
    assert score(name, decomposed, composed) == pytest.approx(1)


def test_rouge_l_by_hand():
    # Longest common subsequence "the cat the mat": 4 of 5 words here, 4 of 6 there.
    text, reference = "the cat near the mat", "the cat sat on the mat"
    precision, recall = 4 / 5, 4 / 6
    expected = 2 * precision * recall / (precision + recall)
    assert score("rouge_l", text, reference) == pytest.approx(expected)


def test_rouge_l_ignores_punctuation_and_does_not_stem():
    assert score("rouge_l", "The Cat!", "the, cat") == 1
    assert score("rouge_l", "cats", "cat") == 0


@settings(deadline=None)
@given(*[st.text(st.characters(max_codepoint=127), max_size=80)] * 2)
def test_rouge_l_of_ascii_text_is_that_of_rouge_score(text, reference):
    theirs = RougeScorer(["rougeL"], use_stemmer=False).score(reference, text)
    assert score("rouge_l", text, reference) == theirs["rougeL"].fmeasure


def test_typographic_english_is_scored_as_by_rouge_score():
    text = "“Don’t” — he said… it’s 5 m², ½ of it • 10 €"
    reference = "He said “don’t” – it is 5 m² • a half of it"
    theirs = RougeScorer(["rougeL"], use_stemmer=False).score(reference, text)
    assert score("rouge_l", text, reference) == theirs["rougeL"].fmeasure > 0


@pytest.mark.parametrize(
    ("text", "reference", "common", "words", "wanted"),
    [
        ("我爱猫。", "我爱狗", 2, 3, 3),  # characters
        ("私は2024年に来た", "私は2023年に来た", 6, 7, 7),  # a number is one token
        ("ラーメン", "ラメン", 3, 4, 3),  # the long vowel's sign is a character
        ("ที่นี่", "ที่นั่น", 1, 2, 3),  # vowel and tone marks stay with their letter
        ("ខ្មែរ", "ខ្មែរ", 3, 3, 3),
        ("Привет, мир!", "привет мир", 2, 2, 2),  # words elsewhere, in lower case
        ("हिन्दी भाषा", "हिन्दी", 1, 2, 1),  # vowel signs belong to words
        ("한국어 문장", "한국어 단어", 1, 2, 2),
        ("שלום עולם", "שלום", 1, 2, 1),
        ("naïve café", "naive café", 1, 2, 2),
        ("Python是好的", "python 是好的", 4, 4, 4),
        ("snake_case", "snake case", 2, 2, 2),
    ],
)
def test_rouge_l_in_other_scripts(text, reference, common, words, wanted):
    precision, recall = common / words, common / wanted
    expected = 2 * precision * recall / (precision + recall)
    assert score("rouge_l", text, reference) == pytest.approx(expected)
    assert score("rouge_l", text, text) == 1


def test_rouge_l_without_words():
    assert score("rouge_l", "!?", "!?") == 0  # as in rouge-score
    assert score("rouge_l", "", "word") == 0


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


def test_several_scores_at_once():
    assert score_text("18.0", "18", ["number_match", "exact_match"]) == {
        "number_match": 1,
        "exact_match": 0,
    }


def test_an_unknown_scorer_is_named_with_the_closest_one():
    with pytest.raises(UserError, match="unknown text scorer 'rougel': did you mean 'rouge_l'"):
        score_text("a", "b", ["rougel"])
