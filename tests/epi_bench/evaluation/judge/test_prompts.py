"""The judge's prompts and the reading of its verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.errors import UserError
from epi_bench.evaluation.judge.prompts import load_prompts
from epi_bench.task.example import Example
from epi_bench.task.task import TASKS

PROMPTS = load_prompts()


@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("Score: [[7]]", 7),
        ("[[7]]", 7),
        ("[[ 8.5 ]]", 8.5),
        ("Score: [[9/10]]", 9),
        ("Good.\nScore: 7", 7),
        ("Score: 7.", 7),
        ("**Score:** 6.5", 6.5),
        ("Score: **4**", 4),
        ("Rating = 0", 0),
        ("score (0-10): 3", 3),
        ('{"score": 9, "why": "fine"}', 9),
        ("My grade is 10", 10),
        ("Score: 7,5", 7.5),
        ("Score: 8/10", 8),
        ("Score: 8 out of 10", 8),
        ("I would say 8/10.", 8),
        ("about 3 out of 10, sadly", 3),
        (" 5 ", 5),
        ("**5**", 5),
        ("First I thought Score: 3, but then\nScore: 6", 6),
        ("7/10 for style. Final Score: [[5]]", 5),
        ("<think>maybe [[2]]</think>Score: [[9]]", 9),
        ("", None),
        ("I cannot grade this.", None),
        ("Score: eleven", None),
        ("Score: 11", None),
        ("[[11]]", None),
        ("[[-3]]", None),
        ("Score: -3", None),
        ("Score: 70/100", None),
        ("Score: 7/100", None),
        ("Score: 7-8", None),
        ("Score: 7 to 8", None),
        ("on 3/10/2024 it was 2024", None),
        ("<think>[[2]]</think> no idea", None),
        ("<think>maybe Score: [[2]]", None),
        ("There are 5 errors in 3 lines", None),
    ],
)
def test_the_score_of_a_verdict(verdict, score):
    assert PROMPTS.score_in(verdict) == score


@settings(max_examples=50)
@given(st.text(max_size=300))
def test_no_verdict_breaks_the_reading_or_leaves_the_scale(verdict):
    score = PROMPTS.score_in(verdict)
    assert score is None or 0 <= score <= 10


@given(st.integers(0, 100), st.text(alphabet="abc XYZ.,!\n", max_size=100))
def test_every_score_on_the_scale_is_read_back(tenths, explanation):
    assert PROMPTS.score_in(f"{explanation}\nScore: [[{tenths / 10}]]") == tenths / 10


def test_there_is_a_prompt_for_each_published_open_ended_task_and_none_for_exact_answers():
    judged = {
        name: TASKS.get(name).card.ability in PROMPTS.prompts
        for name in ("alpaca", "ultrachat", "code_alpaca", "gsm8k")
    }
    assert judged == {"alpaca": True, "ultrachat": True, "code_alpaca": True, "gsm8k": False}


def test_texts_with_braces_are_put_in_as_they_are():
    messages = ({"role": "user", "content": "Use {answer}?"}, {"role": "assistant", "content": "r"})
    system, user = PROMPTS.messages("code", Example(messages, "ref {0}"), "{question} {x!r}")
    assert (system["role"], user["role"]) == ("system", "user")
    for text in ("Use {answer}?", "ref {0}", "{question} {x!r}"):
        assert text in user["content"]


def test_a_dialogue_is_shown_with_its_roles():
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = tuple({"role": role, "content": f"m{i}"} for i, role in enumerate(roles))
    user = PROMPTS.messages("chat", Example(messages, "m4"), "mine")[1]["content"]
    assert "System: m0\n\nUser: m1\n\nAssistant: m2\n\nUser: m3" in user


@pytest.fixture
def prompts_file(tmp_path):
    def write(text):
        path = tmp_path / "prompts.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_is_laid_over_the_shipped_prompts(prompts_file):
    changed = load_prompts(prompts_file('[prompts.chat]\nsystem = "Be brief."'))
    assert changed.prompts["chat"].system == "Be brief."
    assert changed.prompts["chat"].user == PROMPTS.prompts["chat"].user
    assert changed.prompts["code"] == PROMPTS.prompts["code"]
    assert changed.fingerprint != PROMPTS.fingerprint
    assert load_prompts(prompts_file("")).fingerprint == PROMPTS.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not a TOML file"),
        ("answer_token = 3", "unknown setting 'answer_token': did you mean 'answer_tokens'"),
        ("answer_tokens = 0", "answer_tokens=0: input should be greater"),
        ("score_patterns = []", "score_patterns=[]: tuple should have at least 1 item"),
        ("score_patterns = ['(']", "not a regular expression"),
        ("score_patterns = ['x']", "needs a group named 'score'"),
        ('[prompts.chat]\nsistem = "a"', "did you mean 'prompts.chat.system'"),
        ('[prompts.poem]\nsystem = "a"', "prompts.poem.user is missing"),
        ('[prompts.chat]\nuser = "{question}"', "prompts.chat: user lacks {answer}"),
        ('[prompts.chat]\nuser = "{question} {anwser}"', "user has an unknown {anwser}"),
    ],
)
def test_a_bad_file_is_one_clear_line(prompts_file, text, message):
    path = prompts_file(text)
    with pytest.raises(UserError) as refused:
        load_prompts(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load_prompts(tmp_path / "none.toml")
