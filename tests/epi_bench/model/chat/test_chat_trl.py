"""The loss mask beside TRL's, whose training templates mark what the assistant says.

Both supervise the assistant's words and the token that ends its turn. TRL's marks hold more in
some templates: the line break after that token, a part of the assistant's header. Those are what
a template writes and no generation has to produce, so they carry no loss here; the table says
what they are.
"""

import importlib.util
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from epi_bench.model.chat.chat_encoder import ChatEncoder

pytest.importorskip("trl", reason="TRL is not installed: its masks cannot be compared")

CONTENTS = ("Hello.", "What is it?", "the cat", "hello\n\nthe cat", "is it?", "What is it?")

# Template of TRL -> what its mask holds before an answer, after an answer, and after the last one.
FAMILIES = {
    "llama3": ("", "", ""),
    "cohere": ("", "", ""),
    "cohere2": ("", "", ""),
    "gemma": ("", "\n", "\n"),
    "gemma3": ("", "\n", "\n"),
    "lfm2_v2": ("", "\n", "\n"),
    "phi3": ("", "\n", "\n</s>"),
    "qwen2_5": ("\n", "\n", "\n"),
    "qwen3_instruct_2507": ("", "\n", "\n"),
    "deepseekv3": ("<｜Assistant｜>", "", ""),
}


def messages():
    roles = ("user", "assistant") * len(CONTENTS)
    pairs = zip(roles, CONTENTS, strict=False)
    return [{"role": role, "content": content} for role, content in pairs]


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Every byte a token, and the template's own tokens beside them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    template = (Path(spec.origin).parent / "chat_templates" / f"{family}.jinja").read_text("utf-8")
    marks = re.findall(r"<[|｜][^\s|｜]+[|｜]>|<(?:start|end)_of_turn>", template)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(dict.fromkeys(["<s>", "</s>", *marks])))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def training_template(family):
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = tokenizer_of(family)
    return get_training_chat_template(tokenizer) or tokenizer.chat_template


def stretches(tokenizer, ids, mask):
    """Each unbroken run of tokens in the mask, decoded."""
    found, current = [], []
    for token, inside in zip([*ids, -1], [*mask, 0], strict=True):
        if inside:
            current.append(token)
        elif current:
            found.append(tokenizer.decode(current))
            current = []
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_masks_agree_up_to_what_the_template_writes(family):
    tokenizer = tokenizer_of(family)
    theirs = tokenizer.apply_chat_template(
        messages(),
        chat_template=training_template(family),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = ChatEncoder(tokenizer, 10_000).encode(messages())
    assert list(ours.input_ids) == theirs["input_ids"]
    before, after, after_last = FAMILIES[family]
    supervised = stretches(tokenizer, ours.input_ids, ours.supervised)
    assert len(supervised) == 3
    # Ours is the answer and one or more tokens of the vocabulary, nothing else ...
    for answer, text in zip(CONTENTS[1::2], supervised, strict=True):
        assert text.startswith(answer)
        assert re.fullmatch(r"(<[^<>\s]+>)+", text.removeprefix(answer))
    # ... and theirs is ours with what the table says around it.
    expected = [before + text + after for text in supervised[:-1]]
    expected.append(before + supervised[-1] + after_last)
    assert stretches(tokenizer, theirs["input_ids"], theirs["assistant_masks"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama3", "gemma"])
def test_the_labels_of_its_trainer_are_the_supervised_tokens(family, toy_model, tmp_path):
    """``SFTTrainer(assistant_only_loss=True)`` computes its loss on the same tokens."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = tokenizer_of(family)
    model = AutoModelForCausalLM.from_pretrained(toy_model)
    model.resize_token_embeddings(len(tokenizer))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            assistant_only_loss=True,
            max_length=10_000,
        ),
        train_dataset=Dataset.from_list([{"messages": messages()}]),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    ours = ChatEncoder(tokenizer_of(family), 10_000).encode(messages())
    assert tuple(ids) == ours.input_ids
    before, after, after_last = FAMILIES[family]
    supervised = stretches(tokenizer, ours.input_ids, ours.supervised)
    theirs = stretches(tokenizer, ids, [label != -100 for label in labels])
    assert theirs == [before + text + after for text in supervised]
    assert after == after_last
