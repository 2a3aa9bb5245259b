"""Chat encoding: exactly the assistant's words and the end-of-turn token carry loss.

The templates are those of well-known model families, shortened; the tokenizers are small ones.
"""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from epi_bench.errors import UserError
from epi_bench.model.chat.chat_encoder import ChatEncoder

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
QWEN3 = """
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {%- set content = '<think>\n' + thought + '\n</think>\n\n' + content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)

# Template, end of a turn, and the words that the template writes for a message.
FAMILIES = {
    "chatml": (CHATML, "<|im_end|>", str),
    "llama3": (LLAMA3, "<|eot_id|>", str.strip),
    "gemma": (GEMMA, "<end_of_turn>", str.strip),
    "mistral": (MISTRAL, "</s>", lambda words: " " + words),
    "qwen3": (QWEN3, "<|im_end|>", str),
    "phi3": (PHI3, "<|end|>", str),
}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>",
           "<|assistant|>", "<|end|>"]  # fmt: skip


LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def backend(kind, added):
    """A byte-level BPE tokenizer that merges blanks, line breaks and a few words.

    Args:
        kind: ``gpt2`` or ``llama3``, by the rule that finds words; ``trimmed`` is ``gpt2`` with
            leading blanks left out of the character offsets.
        added: Special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "llama3":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "trimmed":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    lines = ["user assistant system hello what is the cat", "\n\nhello\n\nthe\n\n\n\n  two   three"]
    tokenizer.train_from_iterator(
        [line for line in lines for _ in range(9)],
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=list(added),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer.to_str()


def tokenizer_with(template, kind="llama3", added=tuple(SPECIAL), eos="</s>"):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend(kind, tuple(added))),
        bos_token="<s>" if "<s>" in added else None,
        eos_token=eos,
    )
    tokenizer.chat_template = template
    return tokenizer


@cache
def encoder_of(family, kind="llama3", max_length=100_000):
    template = PLAIN if family == "plain" else FAMILIES[family][0]
    return ChatEncoder(tokenizer_with(template, kind), max_length)


def chat(*contents, system=None):
    start = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return start + turns


def prompt_ids(encoder, messages):
    """The tokens of messages and generation prompt, apart from any answer."""
    text = encoder.render(messages, generation_prompt=True)
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    written = tuple(ids[: len(encoder.prefix)]) == encoder.prefix
    return ids if written else [*encoder.prefix, *ids]


def supervised_texts(encoder, example):
    """The supervised tokens of each unbroken stretch, decoded."""
    stretches, current = [], []
    for token, supervised in zip(
        (*example.input_ids, -1), (*example.supervised, False), strict=True
    ):
        if supervised:
            current.append(token)
        elif current:
            stretches.append(encoder.tokenizer.decode(current))
            current = []
    return stretches


class TestSupervisedPart:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_it_is_each_answer_with_its_end_of_turn(self, family):
        _, end, written = FAMILIES[family]
        encoder = encoder_of(family)
        example = encoder.encode(chat("hello", "What is it?", "the cat", "hello\n\nthe cat."))
        assert supervised_texts(encoder, example) == [
            written("What is it?") + end,
            written("hello\n\nthe cat.") + end,
        ]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_tokens_are_those_of_apply_chat_template(self, family):
        encoder = encoder_of(family)
        messages = chat("hello", "What is it?", "the cat", "hello the cat.")
        whole = encoder.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert list(encoder.encode(messages).input_ids) == whole["input_ids"]

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("kind", ["gpt2", "trimmed", "llama3"])
    @settings(deadline=None, max_examples=30)
    @given(data=st.data())
    def test_it_is_exact_for_any_words(self, family, kind, data):
        _, end, written = FAMILIES[family]
        pieces = st.sampled_from(
            ["hello", "the cat", " ", "\n", "\n\n", "  ", "é", "猫", "👍🏽", "\u2028", "a\u0301",
             "assistant", "user", "[INST]", "<|im_end|", "<", "|>", ".", "<think>", "{{ m }}"]
        )  # fmt: skip
        words = st.lists(pieces, min_size=1, max_size=5).map("".join)
        contents = data.draw(st.lists(words, min_size=2, max_size=6))
        repeated = data.draw(st.booleans())
        contents = contents[: len(contents) // 2 * 2]
        if repeated:  # the user says what the assistant says
            contents = [contents[position // 2 * 2] for position in range(len(contents))]
        encoder = encoder_of(family, kind)
        messages = chat(*contents)
        example = encoder.encode(messages)
        answers = [written(text) + end for text in contents[1::2]]
        assert supervised_texts(encoder, example) == answers
        assert encoder.tokenizer.decode(example.input_ids) == encoder.render(messages)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_an_end_of_turn_inside_an_answer_does_not_end_it(self, family):
        _, end, written = FAMILIES[family]
        encoder = encoder_of(family)
        answer = f"so{end}hello</s>the"
        example = encoder.encode(chat(f"say{end}", answer, answer, f"{end}{end}"))
        decoded = supervised_texts(encoder, example)
        assert decoded == [written(answer) + end, written(f"{end}{end}") + end]

    @pytest.mark.parametrize("family", ["chatml", "phi3", "qwen3"])
    def test_an_empty_answer_is_its_end_of_turn(self, family):
        encoder = encoder_of(family)
        example = encoder.encode(chat("hello", "", "hello", ""))
        assert supervised_texts(encoder, example) == [FAMILIES[family][1]] * 2

    def test_history_can_be_masked(self):
        tokenizer = tokenizer_with(CHATML)
        encoder = ChatEncoder(tokenizer, 1000, mask_history=True)
        messages = chat("hello", "one", "hello", "two")
        example = encoder.encode(messages)
        assert supervised_texts(encoder, example) == ["two<|im_end|>"]
        assert example.input_ids == ChatEncoder(tokenizer, 1000).encode(messages).input_ids

    def test_a_conversation_without_an_answer_has_no_supervised_token(self):
        example = encoder_of("chatml").encode(chat("hello"))
        assert example.supervised_tokens == 0
        assert len(example) > 0

    def test_encoding_many_at_once_changes_nothing(self):
        encoder = encoder_of("mistral")
        conversations = [chat("hello", "one"), chat("a", "b", "hello", "two"), chat("x" * 99, "y")]
        examples, report = encoder.training(conversations)
        assert examples == [encoder.encode(c) for c in conversations]
        assert (report.encoded, report.truncated, report.unsupervised) == (3, 0, 0)
        assert encoder.training([])[0] == []


class TestPrompt:
    @pytest.mark.parametrize("family", [*FAMILIES, "plain"])
    @pytest.mark.parametrize("answer", ["the cat", "\nthe", "  two", " ", "猫", "\n\n\n"])
    @pytest.mark.parametrize("kind", ["gpt2", "trimmed", "llama3"])
    def test_a_scored_conversation_begins_with_the_prompt(self, family, answer, kind):
        encoder = encoder_of(family, kind)
        history = chat("hello", "what", "the cat is\n")
        example = encoder.scoring([*history, {"role": "assistant", "content": answer}])
        start = example.supervised.index(True)
        assert list(example.input_ids[:start]) == prompt_ids(encoder, history)
        assert all(example.supervised[start : start + example.supervised_tokens])
        prompt = encoder.prompt([*history, {"role": "assistant", "content": answer}])
        assert prompt.input_ids == example.input_ids[:start]
        assert prompt.supervised_tokens == 0

    def test_the_prompt_is_the_templates_generation_prompt(self):
        encoder = encoder_of("llama3")
        text = encoder.tokenizer.decode(prompt_ids(encoder, chat("hello")))
        assert text == (
            "<s><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )

    def test_a_token_across_the_boundary_is_split(self):
        encoder = encoder_of("chatml")
        messages = chat("hello", "\nhello")
        whole = encoder.tokenizer(encoder.render(messages), add_special_tokens=False)["input_ids"]
        split = encoder.encode(messages)
        assert len(split) == len(whole) + 1  # "\n\n" is one token there
        assert supervised_texts(encoder, split) == ["\nhello<|im_end|>"]

    def test_blanks_before_an_answer_are_tokenised_as_in_the_prompt(self):
        encoder = encoder_of("llama3", "gpt2")
        text = encoder.render(chat("hello", "the cat"))
        whole = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = prompt_ids(encoder, chat("hello"))
        assert whole[: len(prompt)] != prompt  # this rule for words splits "\n\n" before one
        assert list(encoder.encode(chat("hello", "the cat")).input_ids[: len(prompt)]) == prompt

    def test_a_template_without_generation_prompt_gets_the_assistants_header(self):
        template = CHATML.partition("{% if add_generation_prompt")[0]
        with_prompt, without = (ChatEncoder(tokenizer_with(t), 1000) for t in (CHATML, template))
        messages = chat("hello", "the cat", "what", "is")
        assert prompt_ids(without, messages[:3]) == prompt_ids(with_prompt, messages[:3])
        assert without.encode(messages) == with_prompt.encode(messages)

    def test_a_thought_that_the_prompt_opens_and_training_does_not_is_left_out(self):
        template = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
        encoder = ChatEncoder(tokenizer_with(template), 1000)
        usual = encoder_of("chatml")
        assert prompt_ids(encoder, chat("hello")) == prompt_ids(usual, chat("hello"))
        example = encoder.encode(chat("hello", "the cat"))
        assert supervised_texts(encoder, example) == ["the cat<|im_end|>"]


class TestSystemMessage:
    def test_a_default_system_message_is_left_to_the_template(self):
        encoder = encoder_of("chatml")
        assert encoder.render(chat("hello")).startswith("<|im_start|>system\nYou are kind.")
        assert "kind" not in encoder.render(chat("hello", system="Be brief."))

    def test_a_refused_system_message_begins_the_first_user_turn(self):
        encoder = encoder_of("gemma")
        messages = chat("hello", "the cat", system="Be brief.")
        assert encoder.render(messages) == (
            "<s><start_of_turn>user\nBe brief.\n\nhello<end_of_turn>\n"
            "<start_of_turn>model\nthe cat<end_of_turn>\n"
        )
        assert supervised_texts(encoder, encoder.encode(messages)) == ["the cat<end_of_turn>"]
        assert encoder.encode(messages) == encoder.encode(chat("Be brief.\n\nhello", "the cat"))

    def test_a_system_message_that_the_template_leaves_out_is_folded_too(self):
        silent = MISTRAL.replace(
            "{{ raise_exception('Only user and assistant roles are supported!') }}", ""
        )
        encoder = ChatEncoder(tokenizer_with(silent), 1000)
        assert "Be brief.\n\nhello" in encoder.render(chat("hello", "cat", system="Be brief."))

    def test_a_conversation_that_the_template_refuses_is_a_user_error(self):
        messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        with pytest.raises(UserError, match="roles user, user: Roles must alternate"):
            encoder_of("gemma").training([chat("hello", "cat"), messages])


class TestReasoning:
    MESSAGES = chat(
        "what", "<think>\nhm\n</think>\n\nhello", "what", "<think>\nso\n</think>\n\nthe cat"
    )

    def test_thinking_is_off_and_its_empty_mark_belongs_to_the_prompt(self):
        encoder = encoder_of("qwen3")
        assert encoder.render(chat("hello"), generation_prompt=True).endswith("</think>\n\n")
        example = encoder.encode(chat("hello", "the cat"))
        assert supervised_texts(encoder, example) == ["the cat<|im_end|>"]

    def test_with_thinking_the_last_turns_reasoning_is_learned_and_earlier_ones_are_dropped(self):
        encoder = ChatEncoder(
            tokenizer_with(QWEN3), 1000, template_arguments={"enable_thinking": True}
        )
        example = encoder.encode(self.MESSAGES)
        assert "hm" not in encoder.render(self.MESSAGES)
        assert supervised_texts(encoder, example) == [
            "hello<|im_end|>",
            "<think>\nso\n</think>\n\nthe cat<|im_end|>",
        ]

    def test_changed_words_are_found_where_they_continue_the_prompt(self):
        encoder = ChatEncoder(
            tokenizer_with(CHATML.replace("m['content']", "m['content'] | upper")), 1000
        )
        example = encoder.encode(chat("hello", "the cat", "what", "is"))
        assert supervised_texts(encoder, example) == ["THE CAT<|im_end|>", "IS<|im_end|>"]

    def test_words_changed_beyond_recognition_are_a_user_error(self):
        cutting = CHATML.replace("m['content'] +", "(m['content'] if loop.last else 'cut') +")
        with pytest.raises(UserError, match=r"changes the assistant's words.*begins 'the cat'"):
            ChatEncoder(tokenizer_with(cutting), 1000).encode(
                chat("hello", "the cat", "what", "is")
            )


class TestEndOfTurn:
    def test_a_turn_without_a_token_of_its_own_gets_the_end_of_sequence_token(self):
        encoder = ChatEncoder(tokenizer_with(PLAIN), 1000)
        example = encoder.encode(chat("hello", "the cat", "what", "is"))
        assert encoder.tokenizer.decode(example.input_ids) == (
            "USER: hello\nASSISTANT: the cat\nUSER: what\nASSISTANT: is\n</s>"
        )
        assert supervised_texts(encoder, example) == ["the cat\n", "is\n</s>"]

    def test_a_role_token_of_the_next_turn_is_no_end_of_turn(self):
        template = (
            "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
        )
        encoder = ChatEncoder(tokenizer_with(template), 1000)
        example = encoder.encode(chat("hello", "the cat", "what", "is"))
        assert supervised_texts(encoder, example) == ["the cat", "is</s>"]

    def test_a_turn_may_close_with_several_tokens(self):
        template = LLAMA3.replace("'<|eot_id|>'", "'<|end|><|eot_id|>'")
        encoder = ChatEncoder(tokenizer_with(template), 1000)
        example = encoder.encode(chat("hello", "the cat", "what", "is"))
        assert supervised_texts(encoder, example) == [
            "the cat<|end|><|eot_id|>",
            "is<|end|><|eot_id|>",
        ]

    def test_a_last_turn_may_close_with_another_token(self):
        template = CHATML.replace(
            "'<|im_end|>' +", "('</s>' if loop.last and m['role'] == 'assistant' else '<|end|>') +"
        )
        encoder = ChatEncoder(tokenizer_with(template), 1000)
        example = encoder.encode(chat("hello", "the cat", "what", "is"))
        assert supervised_texts(encoder, example) == ["the cat<|end|>", "is</s>"]


class TestWithoutTemplate:
    def test_the_default_is_chatml(self):
        encoder = ChatEncoder(tokenizer_with(None), 1000)
        assert encoder.uses_default_template
        messages = chat("hello", "the cat")
        assert encoder.render(messages) == (
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nthe cat<|im_end|>\n"
        )
        assert supervised_texts(encoder, encoder.encode(messages)) == ["the cat<|im_end|>"]

    def test_a_vocabulary_without_chatml_tokens_ends_turns_with_its_own(self):
        encoder = ChatEncoder(tokenizer_with(None, added=("</s>",)), 1000)
        example = encoder.encode(chat("hello", "the cat"))
        assert supervised_texts(encoder, example) == ["the cat</s>"]

    def test_a_slow_tokenizer_is_refused(self):
        class Slow:
            is_fast = False

        with pytest.raises(UserError, match="slow"):
            ChatEncoder(Slow(), 10)


class TestTruncation:
    def test_training_loses_the_end_and_counts_what_is_left_out(self):
        encoder = encoder_of("chatml")
        conversations = [chat("a", "the cat"), chat("hello " * 30, "b"), chat("a", "b")]
        whole = [encoder.encode(messages) for messages in conversations]
        limit = len(whole[2])  # fits exactly: that is no truncation
        assert len(whole[0]) > limit
        short = ChatEncoder(encoder.tokenizer, limit)
        kept, report = short.training(conversations)
        assert (report.encoded, report.truncated, report.unsupervised) == (2, 1, 1)
        assert kept[0].input_ids == whole[0].input_ids[:limit]
        assert kept[0].supervised == whole[0].supervised[:limit]
        assert kept[1] == whole[2]

    @settings(deadline=None, max_examples=50)
    @given(limit=st.integers(1, 60), answer=st.sampled_from(["a", "hello the cat", "x " * 20]))
    def test_scoring_cuts_the_prompt_and_never_the_answer(self, limit, answer):
        encoder = encoder_of("chatml")
        messages = chat("hello what is", answer)
        whole = encoder.scoring(messages)
        cut = ChatEncoder(encoder.tokenizer, limit).scoring(messages)
        assert cut.supervised_tokens == whole.supervised_tokens
        assert cut.input_ids == whole.input_ids[-len(cut) :]
        assert cut.supervised == whole.supervised[-len(cut) :]
        assert not cut.supervised[0]  # the first answer token is predicted from something
        answer_length = len(whole) - whole.supervised.index(True)
        assert len(cut) == min(len(whole), max(limit, answer_length + 1))

    def test_scoring_supervises_the_last_turn_only(self):
        encoder = encoder_of("chatml")
        example = encoder.scoring(chat("hello", "one", "hello", "two"))
        assert supervised_texts(encoder, example) == ["two<|im_end|>"]


class TestOptions:
    @pytest.mark.parametrize("family", [*FAMILIES, "plain"])
    def test_only_the_options_own_tokens_are_supervised(self, family):
        encoder = encoder_of(family)
        prompt = chat("hello", "the cat", "what is it?")
        options = ["the cat", "hello, hello", "猫", "two "]
        encoded = encoder.options(prompt, options)
        written = str.strip if family in ("llama3", "gemma") else str
        for option, example in zip(options, encoded, strict=True):
            start = example.supervised.index(True)
            assert list(example.input_ids[:start]) == prompt_ids(encoder, prompt)
            assert all(example.supervised[start:])
            blank = " " if family == "mistral" else ""
            assert encoder.tokenizer.decode(example.input_ids[start:]) == blank + written(option)

    def test_a_long_prompt_is_cut_from_the_left(self):
        whole = encoder_of("chatml").options(chat("hello " * 20), ["the cat"])[0]
        encoder = ChatEncoder(encoder_of("chatml").tokenizer, 12)
        cut = encoder.options(chat("hello " * 20), ["the cat"])[0]
        assert len(cut) == 12
        assert cut.input_ids == whole.input_ids[-12:]
        assert cut.supervised_tokens == whole.supervised_tokens

    def test_an_empty_option_is_an_error(self):
        with pytest.raises(UserError, match="the option '' is empty"):
            encoder_of("chatml").options(chat("hello"), ["the cat", ""])


class TestOtherTokenizers:
    def test_a_tokenizer_that_puts_a_blank_before_each_text(self):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
        tokenizer.train_from_iterator(["[INST] hello [/INST] the cat is a b"] * 9, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        fast.chat_template = MISTRAL
        encoder = ChatEncoder(fast, 1000)
        messages = chat("hello", "the cat", "hello", "is a")
        example = encoder.encode(messages)
        tokens = fast.convert_ids_to_tokens(
            [i for i, on in zip(example.input_ids, example.supervised, strict=True) if on]
        )
        assert "".join(tokens) == "▁the▁cat</s>▁is▁a</s>"
        scored = encoder.scoring(messages)
        start = scored.supervised.index(True)
        assert list(scored.input_ids[:start]) == prompt_ids(encoder, messages[:-1])

    def test_added_tokens_that_are_not_special_end_a_turn(self):
        tokenizer = tokenizer_with(CHATML.replace("im_end", "stop"))
        tokenizer.add_tokens([AddedToken("<|stop|>", special=False)])
        encoder = ChatEncoder(tokenizer, 1000)
        example = encoder.encode(chat("hello", "the cat", "hello", "b"))
        assert supervised_texts(encoder, example) == ["the cat<|stop|>", "b<|stop|>"]


def test_templates_that_write_a_date_write_a_fixed_one():
    for call, date in (("'%d %b %Y'", "26 Jul 2024"), ("'%Y-%m-%d'", "2024-07-26")):
        tokenizer = tokenizer_with("\n{{ strftime_now(" + call + ") }}" + CHATML)
        rendered = ChatEncoder(tokenizer, 1000).render(chat("hello"))
        assert rendered.startswith(f"\n{date}<|im_start|>")
    default = "{% if not date_string is defined %}{{ strftime_now('%Y') }}{% endif %}"
    tokenizer = tokenizer_with(default + "{{ date_string }}" + CHATML)
    assert ChatEncoder(tokenizer, 1000).render(chat("hello")).startswith("26 Jul 2024<|im")


class TestAgreementWithTransformers:
    MESSAGES = chat("hello", "what is", "the cat", "hello\n\nthe cat", system="Be kind.")

    def masks(self, template):
        encoder = ChatEncoder(tokenizer_with(template), 1000)
        theirs = encoder.tokenizer.apply_chat_template(
            self.MESSAGES, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ours = encoder.encode(self.MESSAGES)
        assert list(ours.input_ids) == theirs["input_ids"]
        return list(map(int, ours.supervised)), theirs["assistant_masks"], encoder, ours

    def marked(self, inside, after):
        return (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
            "{% if m['role'] == 'assistant' %}{% generation %}" + inside + "{% endgeneration %}"
            + after + "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )  # fmt: skip

    def test_marks_that_hold_the_end_of_turn_give_the_same_mask(self):
        inside = "{{ m['content'] + '<|im_end|>' }}"
        ours, theirs, *_ = self.masks(self.marked(inside, "{{ '\n' }}"))
        assert ours == theirs

    def test_marks_that_leave_it_out_differ_by_that_token(self):
        ours, theirs, encoder, example = self.masks(
            self.marked("{{ m['content'] }}", "{{ '<|im_end|>\n' }}")
        )
        end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
        differing = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        assert [example.input_ids[n] for n in differing] == [end, end]
        assert all(ours[n] == 1 for n in differing)

    def test_marks_that_hold_the_line_break_too_differ_by_it(self):
        ours, theirs, encoder, example = self.masks(
            self.marked("{{ m['content'] + '<|im_end|>\n' }}", "")
        )
        differing = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        assert encoder.tokenizer.decode([example.input_ids[n] for n in differing]) == "\n\n"
        assert all(theirs[n] == 1 for n in differing)


def templates_of_trl():
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        return []
    names = (
        "qwen2_5",
        "qwen3",
        "llama3",
        "llama3_2",
        "gemma",
        "gemma3",
        "phi3",
        "deepseekv3",
        "cohere",
    )
    folder = Path(spec.origin).parent / "chat_templates"
    return [path for path in (folder / f"{name}.jinja" for name in names) if path.is_file()]


@pytest.mark.parametrize("path", templates_of_trl(), ids=lambda path: path.stem)
def test_templates_of_published_models(path):
    """Where TRL is installed, its copies of published templates are tried whole."""
    import re

    template = path.read_text(encoding="utf-8")
    marks = re.findall(r"<[|｜][^\s|｜]+[|｜]>|<(?:start|end)_of_turn>", template)
    added = tuple(dict.fromkeys(["<s>", "</s>", *marks]))
    encoder = ChatEncoder(tokenizer_with(template, added=added), 10_000)
    messages = chat("hello", "the cat", "the cat", "the cat\n\nis", system="Be kind.")
    example = encoder.encode(messages)
    first, last = supervised_texts(encoder, example)
    end = first.removeprefix("the cat")
    assert first == f"the cat{end}"
    assert last == f"the cat\n\nis{end}"
    assert end in added
    scored = encoder.scoring(messages)
    start = scored.supervised.index(True)
    assert list(scored.input_ids[:start]) == prompt_ids(encoder, messages[:-1])


class TestBeginningOfSequence:
    """A tokenizer that puts ``<s>`` before every text, as those of most base models do."""

    MESSAGES = chat("hello", "the cat", "what", "is")

    def encoder(self, template, max_length=1000, mark="<s>", eos="</s>"):
        tokenizer = tokenizer_with(template, eos=eos)
        tokenizer.bos_token = mark
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{mark} $A", special_tokens=[(mark, tokenizer.bos_token_id)]
        )
        return ChatEncoder(tokenizer, max_length)

    @pytest.mark.parametrize("family", [*FAMILIES, "plain", "default"])
    def test_every_sequence_begins_with_it_once(self, family):
        template = {"plain": PLAIN, "default": None}.get(family) or FAMILIES.get(family, (None,))[0]
        encoder = self.encoder(template)
        bare = ChatEncoder(tokenizer_with(template), 1000)
        start = encoder.tokenizer.bos_token_id
        sequences = {
            "training": (encoder.encode(self.MESSAGES), bare.encode(self.MESSAGES)),
            "scoring": (
                encoder.scoring(self.MESSAGES),
                bare.scoring(self.MESSAGES),
            ),
            "option": (
                encoder.options(self.MESSAGES[:1], ["cat"])[0],
                bare.options(self.MESSAGES[:1], ["cat"])[0],
            ),
        }
        for name, (found, without) in sequences.items():
            assert found.input_ids[0] == start and found.input_ids.count(start) == 1, name
            assert not found.supervised[0]
            written = without.input_ids[0] == start
            assert found.input_ids[0 if written else 1 :] == without.input_ids, name
            assert supervised_texts(encoder, found) == supervised_texts(bare, without)
        prompt = prompt_ids(encoder, self.MESSAGES[:3])
        assert prompt == list(sequences["scoring"][0].input_ids[: len(prompt)])

    def test_where_the_end_of_sequence_is_the_same_token_it_is_still_added(self):
        encoder = self.encoder(None, mark="</s>")
        assert encoder.encode(chat("a", "b")).input_ids[0] == encoder.tokenizer.bos_token_id

    def test_a_template_that_opens_turns_with_it_has_written_it(self):
        encoder = self.encoder("\n" + CHATML, mark="<|im_start|>")
        bare = ChatEncoder(tokenizer_with("\n" + CHATML), 1000)
        assert encoder.encode(self.MESSAGES) == bare.encode(self.MESSAGES)

    def test_a_tokenizer_that_adds_none_gets_none(self):
        encoder = ChatEncoder(tokenizer_with(CHATML), 1000)
        assert encoder.prefix == ()
        assert encoder.tokenizer.bos_token_id not in encoder.encode(self.MESSAGES).input_ids

    def test_the_same_text_in_a_message_is_none(self):
        encoder = self.encoder(CHATML)
        ids = encoder.encode(chat("<s>", "<s> <s>")).input_ids
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(encoder.tokenizer.bos_token_id) == 1

    @pytest.mark.parametrize("template", [CHATML, LLAMA3])
    def test_a_cut_prompt_keeps_it(self, template):
        whole = self.encoder(template).scoring(chat("hello " * 30, "the cat"))
        cut = self.encoder(template, 20).scoring(chat("hello " * 30, "the cat"))
        assert len(cut) == 20
        assert cut.input_ids == (whole.input_ids[0], *whole.input_ids[-19:])
        assert cut.supervised_tokens == whole.supervised_tokens


class TestComparableOptions:
    def tokens(self, examples):
        return [
            (example.input_ids[: example.supervised.index(True)], example.supervised_tokens)
            for example in examples
        ]

    @pytest.mark.parametrize("family", [*FAMILIES, "plain"])
    @pytest.mark.parametrize("limit", [12, 16, 24, 1000])
    def test_all_follow_one_context_and_the_longest_fits(self, family, limit):
        tokenizer = encoder_of(family).tokenizer
        options = ["two", "the cat", "hello hello hello the cat"]
        messages = chat("hello " * 20)
        encoded = ChatEncoder(tokenizer, limit).options(messages, options)
        whole = ChatEncoder(tokenizer, 1000).options(messages, options)
        assert len({context for context, _ in self.tokens(encoded)}) == 1
        assert [e.supervised_tokens for e in encoded] == [e.supervised_tokens for e in whole]
        assert max(len(e) for e in encoded) == min(limit, max(len(e) for e in whole))
        assert {e.cut for e in encoded} == {max(0, max(len(e) for e in whole) - limit)}

    def test_a_blank_that_some_options_merge_belongs_to_all(self):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
        tokenizer.train_from_iterator(["USER: hello ASSISTANT: the cat is a b"] * 9, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>"
        )
        fast.chat_template = PLAIN
        encoded = ChatEncoder(fast, 1000).options(chat("hello"), ["the cat", "zz"])
        said = [
            fast.convert_ids_to_tokens(
                [i for i, on in zip(e.input_ids, e.supervised, strict=True) if on]
            )
            for e in encoded
        ]
        assert said[0] == ["▁the", "▁cat"]
        assert said[1][0] == "▁" and set(said[1][1:]) == {"<unk>"}
        assert len({context for context, _ in self.tokens(encoded)}) == 1

    @pytest.mark.parametrize("family", [*FAMILIES, "plain"])
    def test_where_one_begins_another_each_has_its_end_of_turn(self, family):
        encoder = encoder_of(family)
        messages = chat("hello")
        nested = encoder.options(messages, ["the", "the cat", "two"])
        others = encoder.options(messages, ["the cat", "two"])
        for option, example in zip(["the", "the cat", "two"], nested, strict=True):
            scored = encoder.scoring([*messages, {"role": "assistant", "content": option}])
            size = 1 + max(n for n, on in enumerate(scored.supervised) if on)
            assert example.input_ids == scored.input_ids[:size]
            assert example.supervised == scored.supervised[:size]
        end = encoder.tokenizer.convert_tokens_to_ids(
            "</s>" if family == "plain" else FAMILIES[family][1]
        )
        assert all(end not in self.said(example) for example in others)

    def said(self, example):
        return [i for i, on in zip(example.input_ids, example.supervised, strict=True) if on]

    def test_a_word_that_begins_another_word_is_another_token(self):
        encoder = encoder_of("chatml")
        encoded = encoder.options(chat("hello"), ["is", "it"])
        assert not any(self.said(e)[-1] in encoder.tokenizer.all_special_ids for e in encoded)
