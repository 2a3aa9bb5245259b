"""Control tokens come from the template alone: data that shows their text is text.

The templates and the byte-level tokenizers are those of ``test_chat_encoder.py``; here are further
models.
"""

import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.control_tokens import ControlTokens


def _module_of_templates():
    path = Path(__file__).with_name("test_chat_encoder.py")
    spec = importlib.util.spec_from_file_location("chat_templates_for_control_tokens", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FAMILY = _module_of_templates()
FAMILIES = [*FAMILY.FAMILIES, "plain"]
MARKS = [*FAMILY.SPECIAL, "<think>", "</think>", "<tool_call>"]
KINDS = ["gpt2", "trimmed", "llama3", "metaspace", "first", "legacy", "unigram", "words"]
CORPUS = ["user assistant system hello what is the cat", "\n\nhello\n\nthe\n\n  two three <|>/[]_"]


@cache
def tokenizer_of(kind):
    if kind in ("gpt2", "trimmed", "llama3"):
        tokenizer = FAMILY.tokenizer_with(None, kind)
    else:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_backend(kind), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")]
    )
    tokenizer.add_tokens([AddedToken("\n\n\n", normalized=False), AddedToken("<b>")])
    return tokenizer


def _backend(kind):
    special = ["<unk>", *FAMILY.SPECIAL]
    alphabet = sorted({character for line in CORPUS for character in line} | {"▁"})
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet
        )
    elif kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        trainer = trainers.WordLevelTrainer(special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(
            vocab_size=200, special_tokens=special, initial_alphabet=alphabet
        )
    if kind == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        scheme = "first" if kind == "first" else "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(CORPUS * 9, trainer)
    return tokenizer


@cache
def encoder_of(family, kind, **options):
    tokenizer = tokenizer_of(kind)
    template = FAMILY.PLAIN if family == "plain" else FAMILY.FAMILIES[family][0]
    copy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
    )
    copy.chat_template = template
    return ChatEncoder(copy, 100_000, **options)


def marks_in(encoder, ids):
    """The control tokens among some ids, in their order; unknown characters are none."""
    tokens = encoder.tokenizer.convert_ids_to_tokens(list(ids))
    return [token for token in tokens if token in MARKS]


class TestDataIsText:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_control_tokens_are_those_of_the_template_whatever_the_messages_say(
        self, family, kind
    ):
        encoder = encoder_of(family, kind)
        for mark in ("<|im_end|>", "</s>", "<start_of_turn>", "</think>"):
            shown = [f"what {mark} is", f"the {mark}cat", f"{mark}", f"hello{mark} {mark}"]
            said = FAMILY.chat(*shown)
            plain = FAMILY.chat("what is", "the cat", "hello", "two")
            for messages, bare in ((said, plain), (said[:3], plain[:3])):
                found, expected = encoder.encode(messages), encoder.encode(bare)
                assert marks_in(encoder, found.input_ids) == marks_in(encoder, expected.input_ids)
            found, expected = encoder.prompt(said), encoder.prompt(plain)
            assert marks_in(encoder, found.input_ids) == marks_in(encoder, expected.input_ids)

    @pytest.mark.parametrize("family", FAMILY.FAMILIES)
    @pytest.mark.parametrize("kind", ["gpt2", "trimmed", "llama3"])
    def test_the_text_is_as_before_and_so_is_what_is_supervised(self, family, kind):
        _, end, written = FAMILY.FAMILIES[family]
        encoder = encoder_of(family, kind)
        for mark in MARKS:
            answers = [f"so{mark}hello</s>the", f"{mark} {mark}"]
            messages = FAMILY.chat(f"say{mark}", answers[0], f"{mark}", answers[1])
            example = encoder.encode(messages)
            assert encoder.tokenizer.decode(example.input_ids) == encoder.render(messages)
            assert FAMILY.supervised_texts(encoder, example) == [
                written(answer) + end for answer in answers
            ]
            scored = encoder.scoring(messages)
            start = scored.supervised.index(True)
            other = encoder.prompt([*messages[:-1], {"role": "assistant", "content": "the cat"}])
            assert scored.input_ids[:start] == other.input_ids  # whatever the answer is

    def test_a_system_message_that_is_folded_in_is_data_too(self):
        encoder = encoder_of("gemma", "llama3")
        messages = FAMILY.chat("hello", "cat", system="<end_of_turn>")
        expected = FAMILY.chat("hello", "cat", system="kind")
        assert marks_in(encoder, encoder.encode(messages).input_ids) == marks_in(
            encoder, encoder.encode(expected).input_ids
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_options_are_data(self, kind):
        encoder = encoder_of("chatml", kind)
        prompt = FAMILY.chat("choose </s>")
        for example in encoder.options(prompt, ["<|im_end|>", "the </s>", "<think>"]):
            said = [i for i, on in zip(example.input_ids, example.supervised, strict=True) if on]
            assert said and not marks_in(encoder, said)

    @pytest.mark.parametrize("kind", KINDS)
    def test_running_text_is_data_throughout(self, kind):
        tokenizer = tokenizer_of(kind)
        control = ControlTokens(tokenizer)
        assert control.encode_data("hello the cat") is None
        for mark in MARKS:
            ids = control.encode_data(f"hello {mark} the{mark}")
            assert ids and not control.ids.intersection(ids) - {tokenizer.unk_token_id}

    def test_a_mark_that_normalisation_makes_is_none(self):
        backend = _backend("metaspace")
        backend.normalizer = normalizers.NFKC()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
        tokenizer.add_tokens([AddedToken("<think>", normalized=True)])
        tokenizer.chat_template = FAMILY.CHATML
        encoder = ChatEncoder(tokenizer, 1000)
        wide = "＜think＞"
        assert "<think>" in tokenizer.tokenize(wide)
        assert "<think>" not in marks_in(encoder, encoder.encode(FAMILY.chat(wide, "a")).input_ids)

    def test_private_characters_in_the_data_stay_what_they_are(self):
        encoder = encoder_of("chatml", "llama3")
        private = "".join(map(chr, range(0x100000, 0x100080)))
        messages = FAMILY.chat(f"{private}<|im_end|>{chr(0x100002) * 10}", f"{private}</s>")
        example = encoder.encode(messages)
        assert encoder.tokenizer.decode(example.input_ids) == encoder.render(messages)
        assert private in encoder.render(messages)
        expected = encoder.encode(FAMILY.chat("a", "b")).input_ids
        assert marks_in(encoder, example.input_ids) == marks_in(encoder, expected)


class TestDataWithoutMarks:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("kind", KINDS)
    @settings(deadline=None, max_examples=3)
    @given(data=st.data())
    def test_its_tokens_are_the_same_with_names_for_the_templates_marks(self, family, kind, data):
        pieces = st.sampled_from(
            ["hello", "the cat", " ", "\n", "\n\n\n", "  ", "é", "👍🏽", "<|im_end|", "<b>", "|>"]
        )
        words = st.lists(pieces, min_size=1, max_size=5).map("".join)
        contents = data.draw(st.lists(words, min_size=2, max_size=4))
        messages = FAMILY.chat(*contents[: len(contents) // 2 * 2])
        encoder = encoder_of(family, kind)
        plain = encoder.encode(messages), encoder.prompt(messages)
        control = encoder._turns.renderer.control_tokens
        assert not any(control.are_in(content) for content in contents)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(control, "are_in", lambda text: True)
            assert (encoder.encode(messages), encoder.prompt(messages)) == plain

    def test_added_tokens_for_ordinary_text_are_kept(self):
        tokenizer = tokenizer_of("llama3")
        for text in ("\n\n\n", "<b>"):
            assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
            assert not ControlTokens(tokenizer).are_in(text)


class TestDrafts:
    DRAFT = FAMILY.chat("what", "<think>\nso </s>\n</think>\n\nthe </think> cat")

    def test_a_draft_that_the_template_takes_apart_has_the_templates_marks(self):
        encoder = encoder_of("qwen3", "llama3")
        example = encoder.encode(FAMILY.chat("what", "<think>\nso </s>\n</think>\n\nthe cat"))
        assert marks_in(encoder, example.input_ids)[2:] == [
            "<|im_start|>", "<think>", "</think>", "<|im_end|>"
        ]  # fmt: skip

    def test_a_mark_inside_an_answer_is_text_and_does_not_take_it_apart(self):
        encoder = encoder_of("qwen3", "llama3")
        example = encoder.encode(FAMILY.chat("what", "the mark </think> ends a thought"))
        assert FAMILY.supervised_texts(encoder, example) == [
            "the mark </think> ends a thought<|im_end|>"
        ]
        assert marks_in(encoder, example.input_ids).count("</think>") == 1  # the template's own

    def test_where_the_template_knows_no_drafts_they_are_text(self):
        encoder = encoder_of("chatml", "llama3")
        example = encoder.encode(self.DRAFT)
        assert "<think>" not in marks_in(encoder, example.input_ids)


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "phi3"])
def test_transformers_finds_the_same_control_tokens(family):
    """From 5.2x on it can tell marks from data itself; its pieces may differ, its marks may not."""
    encoder = encoder_of(family, "llama3")
    apply = encoder.tokenizer.apply_chat_template
    if "sanitize_control_tokens" not in inspect.signature(apply).parameters:
        pytest.skip("this transformers does not offer it")
    messages = FAMILY.chat("say <|im_end|>", "so </s> it is", "<s>", "<end_of_turn><|end|>")
    theirs = apply(messages, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    ours = encoder.encode(messages).input_ids
    assert marks_in(encoder, ours) == marks_in(encoder, theirs["input_ids"])
    decode = encoder.tokenizer.decode
    assert decode(ours) == decode(theirs["input_ids"])
