"""Templates: what is missing never becomes text, and values are compared by type."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.task.files.template_values import MissingValueError
from epi_bench.task.files.text_template import TextTemplate, TextTemplateError

NAN = float("nan")


def fill(source, optional_values=True, **values):
    return TextTemplate(source, optional_values).render(values)


class TestMissing:
    @pytest.mark.parametrize("missing", [None, NAN, Decimal("NaN")])
    @pytest.mark.parametrize(
        "source",
        [
            "{{ x }}", "a {{ x }}", "{{ x | trim }}", "{{ x | lower }}", "{{ x | string }}",
            "{{ 'a' ~ x }}", "{{ x + 1 }}", "{{ 1 - x }}", "{{ x | int }}", "{{ x | float }}",
            "{{ x | round }}", "{{ x[0] }}", "{{ x.y }}", "{{ x.strip() }}", "{{ x | length }}",
            "{{ [1] | join(x) }}", "{{ row.x }}", "{{ row['x'] | upper }}", "{{ row.get('x') }}",
            "{{ row.get('unheard of') | trim }}", "{% for y in x %}{% endfor %}",
            "{{ 'yes' if x == 5 else 'no' }}", "{{ 'yes' if x != 'a' else 'no' }}",
            "{{ 'yes' if x > 5 else 'no' }}", "{{ 'yes' if 1 < x < 5 else 'no' }}",
            "{{ 'yes' if x in ['a', 'b'] else 'no' }}", "{{ 'yes' if 'a' in x else 'no' }}",
            "{{ 'yes' if x is eq(5) else 'no' }}", "{{ 'yes' if x is true else 'no' }}",
            "{{ 'yes' if inner.y == 5 else 'no' }}", "{{ items | join }}",
            "{% for y in items %}{{ y }}{% endfor %}", "{{ items | last | trim }}",
            "{{ x | abs }}", "{{ 'a'.startswith(x) }}", "{{ x | map('upper') | join }}",
            "{{ x | select('string') | join }}", "{{ items[x] }}",
        ],
    )  # fmt: skip
    def test_a_value_that_is_needed_is_told_missing(self, source, missing):
        values = {"x": missing, "inner": {"y": missing}, "items": ["a", missing]}
        with pytest.raises(MissingValueError, match="no value for"):
            fill(source, **values, row=values)

    @pytest.mark.parametrize("missing", [None, NAN])
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("{{ x | default('none') }}", "none"), ("{{ x | d('') }}!", "!"),
            ("{{ 'a' if x is none else 'b' }}", "a"), ("{{ 'a' if x == none else 'b' }}", "a"),
            ("{{ 'a' if none != x else 'b' }}", "b"), ("{{ 'a' if x is defined else 'b' }}", "b"),
            ("{{ 'a' if x is not none and x > 1 else 'b' }}", "b"),
        ],
    )  # fmt: skip
    def test_a_template_may_ask_and_replace(self, source, text, missing):
        assert fill(source, x=missing) == fill(source, optional_values=False, x=missing) == text

    def test_a_part_may_be_left_out_but_a_label_is_not_no_because_nobody_knows(self):
        part = "{% if x %}Note: {{ x }}{% endif %}{{ x or '-' }}"
        assert fill(part, x=None) == "-"
        for source in (part, "{{ 'yes' if x else 'no' }}", "{{ 'yes' if not x else 'no' }}"):
            with pytest.raises(MissingValueError, match="no value for 'x'"):
                fill(source, optional_values=False, x=None)

    def test_a_column_that_does_not_exist_is_another_error(self):
        for source in ("{{ y }}", "{{ row.y }}", "{{ 'a' if y == none else 'b' }}"):
            with pytest.raises(TextTemplateError, match="'y'"):
                fill(source, row={"x": 1})


class TestComparisons:
    @pytest.mark.parametrize(
        "condition",
        [
            "x == 5", "5 == x", "x != 5", "x > 3", "3 <= x", "1 < x < 6", "x in [4, 5]",
            "x not in [4, 5]", "x is eq(5)", "x is in [4, 5]", "x is ge(3)",
            "[x] | select('eq', 5) | list", "x == true", "x == day", "x == ['5']",
        ],
    )  # fmt: skip
    def test_a_text_is_never_a_number(self, condition):
        if "[x]" in condition:
            condition = condition.replace("[x]", "xs")
        with pytest.raises(TextTemplateError, match=r"compares a|looks for a text"):
            fill(f"{{{{ 'a' if {condition} else 'b' }}}}", x="5", xs=["5"], day=date(2020, 1, 1))

    def test_the_error_shows_both_and_says_what_to_do(self):
        with pytest.raises(TextTemplateError) as caught:
            fill("{{ 'top' if stars == 5 else 'low' }}", stars="5")
        assert str(caught.value) == (
            "'5' == 5 compares a text with a number: write the number in quotes, or make a number "
            "of '5' with the filter int or float"
        )

    @pytest.mark.parametrize(
        ("condition", "value", "expected"),
        [
            ("x == 5", 5, True), ("x == 5", 5.0, True), ("x == 5", Decimal(5), True),
            ("x == 4.1", Decimal("4.1"), True), ("x == 1", True, True), ("x == '5'", "5", True),
            ("x | int == 5", "5", True), ("x | float > 4.5", "4.6", True), ("x == '5'", "6", False),
            ("x in ['5', 6]", "5", True), ("x in ['4', 5]", "5", False), ("x in '456'", "5", True),
            ("x in []", "5", False), ("1 < x <= 5", 5, True), ("1 < x < 5", 5, False),
            ("x == 9007199254740993", 2**53 + 1, True), ("x == 9007199254740992", 2**53 + 1, False),
            ("x == none", "5", False), ("'a' in x", {"a": 1}, True), ("x == ['a']", ["a"], True),
        ],
    )  # fmt: skip
    def test_values_of_one_type_are_compared(self, condition, value, expected):
        assert fill(f"{{{{ {condition} }}}}", x=value) == str(expected)

    @settings(deadline=None)
    @given(st.integers(), st.integers(), st.floats(allow_nan=False))
    def test_numbers_compare_as_in_python(self, left, middle, right):
        values = {"a": left, "b": middle, "c": right}
        for condition in ("a < b", "b >= a", "a == b", "a != c", "a < b <= c", "c > b", "a in [1]"):
            assert fill(f"{{{{ {condition} }}}}", **values) == str(eval(condition, {}, values))

    @pytest.mark.parametrize("source", ["{{ x | int }}", "{{ x | float }}", "{{ x | round }}"])
    def test_a_text_that_is_no_number_is_not_zero(self, source):
        with pytest.raises(TextTemplateError, match="'n/a' is no number"):
            fill(source, x="n/a")

    def test_unless_a_default_is_given(self):
        assert fill("{{ x | int(7) }} {{ x | float(0.5) }}", x="n/a") == "7 0.5"
        assert fill("{{ '4.7' | int }} {{ 'ff' | int(base=16) }} {{ '1e3' | float }}") == (
            "4 255 1000.0"
        )


@pytest.mark.parametrize("name", ["capitalize", "lower", "title", "trim", "truncate", "upper"])
@pytest.mark.parametrize("value", [["a", None], {"a": None}, ["a"]])
def test_a_list_is_no_text_whatever_filter_takes_it(name, value):
    with pytest.raises(TextTemplateError, match="is no text: pick a part of it, or join it"):
        fill(f"{{{{ x | {name} }}}}", x=value)


def test_no_label_is_not_the_last_one():
    source = "{{ ['negative', 'positive'][x] }}"
    assert fill(source, x=1) == "positive"
    with pytest.raises(TextTemplateError, match="-1 is no position in a list"):
        fill(source, x=-1)
    assert fill("{{ x[-1] }}", x=["a", "b"]) == "b"


def test_nan_as_a_text_is_no_number_and_no_answer():
    with pytest.raises(TextTemplateError, match="'nan' is no number"):
        fill("{{ 'high' if x | float > 3 else 'low' }}", x="nan")
    assert fill("{{ x | float(2.5) }}", x="nan") == "2.5"


def test_what_a_filter_asserts_is_told_as_an_error_of_the_template():
    with pytest.raises(TextTemplateError, match="expected length >= 3"):
        fill("{{ x | truncate(2) }}", x="a long text")


@pytest.mark.parametrize(
    "source",
    [
        "{{ x | join(', ') }}",
        "{{ x | map('upper') | join }}",
        "{% for y in x %}{{ y }};{% endfor %}",
    ],
)
def test_a_text_is_not_taken_apart_letter_by_letter(source):
    with pytest.raises(TextTemplateError, match="goes through the text 'abc' letter by letter"):
        fill(source, x="abc")
    assert fill(source.replace("x ", "x | list "), x="abc") == fill(source, x=["a", "b", "c"])


def test_numbers_without_end_and_half_characters_are_no_text():
    with pytest.raises(TextTemplateError, match="an infinite number is no text"):
        fill("{{ x }}", x=float("inf"))
    with pytest.raises(TextTemplateError, match=r"no Unicode text: \\ud800 is half of a pair"):
        fill(r"{{ '\ud800' }}")


def test_more_loops_than_python_nests_are_refused():
    with pytest.raises(TextTemplateError, match="nested too deeply"):
        TextTemplate("{% for a in q %}" * 25 + "x" + "{% endfor %}" * 25)
