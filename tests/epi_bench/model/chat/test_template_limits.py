"""A chat template that would never end, or fill the memory, is one line; others write the same."""

from __future__ import annotations

import threading
import time

import pytest

from epi_bench.errors import UserError
from epi_bench.model.chat.chat_encoder import ChatEncoder

MESSAGES = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "green"}]
WRITES = "{% for m in messages %}{{ m.role ~ ': ' + m.content }}\n{% endfor %}"


@pytest.fixture
def encoder(toy_model):
    """Makes encoders with a template."""
    from transformers import AutoTokenizer

    def make(template: str) -> ChatEncoder:
        tokenizer = AutoTokenizer.from_pretrained(toy_model)
        tokenizer.chat_template = template
        return ChatEncoder(tokenizer, 64)

    return make


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
         "its loops make more than 1,000,000 passes"),
        ("{% macro f() %}{% for i in range(99999) %}{% endfor %}{% endmacro %}"
         "{% for i in range(99999) %}{{ f() }}{% endfor %}", "more than 1,000,000 passes"),
        ("{% for i in range(10**10) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ 'x' * 10**10 }}", "it makes a text of more than 10,000,000 characters"),
        ("{{ 10**(10**10) }}", "it computes too large a number"),
        ("{{ 10**10 * 'x' }}", "it makes a text of more than 10,000,000 characters"),
        ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
         "{% endfor %}", "more than 10,000,000 characters"),
        ("{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}"
         "{% endfor %}", "more than 10,000,000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 + messages }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content[0].x.y }}", "has no attribute"),
        ("{% for", "unexpected"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_end_is_one_line(encoder, template, reason):
    began = time.monotonic()
    with pytest.raises(UserError, match="the model's chat template") as refused:
        encoder(template + WRITES).encode(MESSAGES)
    assert reason.lower() in str(refused.value).lower()
    assert time.monotonic() - began < 60


def test_the_limit_holds_in_any_thread(encoder):
    template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    made, found = encoder(template), []

    def render() -> None:
        try:
            made.render(MESSAGES)
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(60)
    assert "more than 1,000,000 passes" in found[0]


def test_each_conversation_has_its_own_passes(encoder):
    made = encoder("{% for i in range(99999) %}{% endfor %}" + WRITES)
    examples, _ = made.training([MESSAGES] * 15)  # 1.5 million passes in all
    assert len(examples) == 15


LONG = (
    "{%- set n = namespace(found=0) -%}\n"
    "{%- for m in messages if m.role != 'system' -%}\n"
    "  {%- if loop.first %}[{{ loop.length }}]{% endif %}\n"
    "  {{- m.role ~ '|' ~ loop.index ~ none ~ 2.5 }}{{ m.content + '!' * 2 }}\n"
    "  {%- if loop.last %}{% break %}{% else %};{% endif -%}\n"
    "  {%- set n.found = n.found + 1 -%}\n"
    "  {%- generation %}{{ loop.previtem.role if loop.previtem }}{% endgeneration -%}\n"
    "{%- else %}nothing{% endfor %}{{ n.found }}{{ [1] + [2] }}{{ (1, 2) * 2 }}{{ 3 * 4 }}"
    "{% macro show(x) %}{% for i in x %}<{{ i }}>{% endfor %}{% endmacro %}{{ show('ab') }}"
)


def test_a_template_within_the_limits_writes_the_same(encoder):
    from transformers.utils.chat_template_utils import render_jinja_template

    (expected,), _ = render_jinja_template([MESSAGES], chat_template=LONG)
    made = encoder(LONG)._chat_template
    assert made._apply([MESSAGES], False) == [expected]
    assert expected.startswith("[2]user|1None2.5red!!;assistant|2None2.5green!!1[1, 2](1, 2, 1, 2)")
