"""What ends an answer, and what of its text counts."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, GenerationConfig

from epi_bench.evaluation.answers import AnswerReader, ending_texts, ending_tokens
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.drafts import without_drafts


class Model:
    def __init__(self, **settings):
        self.generation_config = GenerationConfig(**settings)


@pytest.fixture
def tokenizer(toy_model):
    return AutoTokenizer.from_pretrained(toy_model)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("42", "42"),
        (" 42\n", " 42\n"),
        ("<think>7 or 8?</think>\n\n42", "42"),
        ("<think>\n7\n</think>\n    return 42", "    return 42"),
        ("so 7, no</think>42", "42"),  # the prompt has opened the draft
        ("<think>The answer is 7.", ""),
        ("42 <think>or 7?", "42 "),
        ("<think>7</think>42<think>8</think>", "42"),
        ("7</think>4<think>8</think>2", "42"),
        ("<think><think>7</think>8</think>42", "42"),
        ("[THINK]7[/THINK]42", "42"),
        ("<|START_THINKING|>7<|END_THINKING|>42", "42"),
        ("<think></think>", ""),
        ("a < b and think > 7", "a < b and think > 7"),
    ],
)
def test_a_draft_is_no_answer(said, answer):
    assert without_drafts(said) == answer


@pytest.mark.parametrize("special", [True, False])
def test_a_draft_between_tokens_of_its_own_is_no_answer_either(tokenizer, special):
    tokenizer.add_tokens([AddedToken(t, special=special) for t in ("<think>", "</think>")])
    ids = tokenizer.encode("<think>one</think>two", add_special_tokens=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<think>")
    reader = AnswerReader(tokenizer)
    assert reader.read(ids) == ("two", False)
    unclosed = ids[: ids.index(tokenizer.convert_tokens_to_ids("</think>"))]
    assert reader.read(unclosed) == ("", False)


def test_the_text_is_not_tidied_up(tokenizer):
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    text = "x = a . b , do n't !"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) != text
    assert AnswerReader(tokenizer).read(ids)[0] == text


def test_special_tokens_are_no_text_and_their_texts_are(tokenizer):
    ids = tokenizer.encode("red<|im_start|> blue", add_special_tokens=False)
    assert AnswerReader(tokenizer).read(ids)[0] == "red blue"
    shown = [i for c in "<|im_start|>" for i in tokenizer.encode(c, add_special_tokens=False)]
    assert AnswerReader(tokenizer).read(shown)[0] == "<|im_start|>"


@pytest.mark.parametrize("named", [None, 7, [7, 8]])
def test_the_models_settings_may_name_several_ends(tokenizer, named):
    encoder = ChatEncoder(tokenizer, 64)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = {
        end,
        tokenizer.eos_token_id,
        *([] if named is None else {7, *([8] if named != 7 else [])}),
    }
    assert ending_tokens(Model(eos_token_id=named), encoder) == sorted(expected)


def test_the_templates_end_of_turn_is_one_even_if_it_is_no_special_token(tokenizer):
    tokenizer.add_tokens([AddedToken("<stop>", special=False), AddedToken("<more>")])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}"
        "{{ '<stop>' if loop.last else '<more>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    found = ending_tokens(Model(), ChatEncoder(tokenizer, 64))
    assert found == sorted(
        {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<stop>", "<more>"])}
    )


def test_a_line_break_that_is_an_added_token_ends_no_turn(tokenizer):
    tokenizer.add_tokens([AddedToken("\n", special=False, normalized=False)])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    encoder = ChatEncoder(tokenizer, 64)
    assert ending_tokens(Model(), encoder) == [tokenizer.eos_token_id]


class TestStopStrings:
    @pytest.mark.parametrize(
        ("named", "expected"), [(None, ()), ("\nQ:", ("\nQ:",)), (["a", "b"], ("a", "b"))]
    )
    def test_they_are_those_of_the_models_settings(self, named, expected):
        assert ending_texts(Model(stop_strings=named)) == expected

    def test_the_answer_is_what_stands_before_the_first(self, tokenizer):
        ids = tokenizer.encode("red green blue green", add_special_tokens=False)
        assert AnswerReader(tokenizer, ["blue", " gre"]).read(ids) == ("red", True)
        assert AnswerReader(tokenizer, ["yellow"]).read(ids) == ("red green blue green", False)

    def test_an_answer_is_over_with_the_token_that_completes_one(self, tokenizer):
        ids = tokenizer.encode("red 猫 green", add_special_tokens=False)
        for ending in ("red", "猫", "d 猫 g", "green"):
            reader = AnswerReader(tokenizer, [ending])
            ended = [reader.is_ended(ids[:size]) for size in range(1, len(ids) + 1)]
            first = ended.index(True)
            assert ending in tokenizer.decode(ids[: first + 1])
            assert ending not in tokenizer.decode(ids[:first])
