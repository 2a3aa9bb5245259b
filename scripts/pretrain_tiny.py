"""Build the embedded backbone ``tiny``: its tokenizer, its weights and its held-out text.

The model learns the chat format, the vocabulary of the ``mini`` tasks and generic skills (repeat,
copy, count, look up), and none of the skills that the tasks ask for. Everything is drawn from
fixed seeds on one thread: the same machine and library versions give the same files.

    python scripts/pretrain_tiny.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from epi_bench.batching import collate, shuffled_batches
from epi_bench.chat import ChatEncoder, EncodedExample
from epi_bench.task import Message
from epi_bench.tasks._generated import COLOURS, NAMES, THINGS, conversation

FOLDER = Path(__file__).resolve().parent.parent / "epi_bench" / "data" / "tiny"
VOCABULARY_SIZE = 768
CONVERSATIONS = 40_000
HELD_OUT_CHARACTERS = 9_000
STEPS = 3_000
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
MAX_LENGTH = 128

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

COMPARATIVES = ("older", "younger", "taller", "shorter", "faster", "slower")
SUPERLATIVES = ("oldest", "youngest", "tallest", "shortest", "fastest", "slowest")
VERBS = ("gives", "gets", "buys", "loses", "has", "Move", "Leave", "Write", "Swap", "Reverse")
FUNCTIONS = ("sum", "len", "max", "min", "sorted", "set")
ADJECTIVES = ("largest", "smallest", "first", "last", "number", "all", "each", "every", "more")
CONNECTIVES = ("in", "without", "with", "above", "below", "after", "before", "to", "of", "out")
NOUNS = ("word", "words", "order", "repeats", "front", "end", "Python", "colour", "list", "times")
WORDS = (
    *(*NAMES, *THINGS, *COLOURS, *COMPARATIVES, *SUPERLATIVES, *VERBS),
    *(*ADJECTIVES, *CONNECTIVES, *NOUNS, "plus", "minus", "twice", "other", "from", "see", "now"),
)


def fact(generator: random.Random) -> str:
    """A sentence about people and things."""
    name, other = generator.sample(NAMES, 2)
    thing, colour = generator.choice(THINGS), generator.choice(COLOURS)
    number = generator.randint(1, 99)
    return generator.choice(
        (
            f"{name} has {number} {thing} and {generator.choice(VERBS)} {generator.randint(1, 99)}.",
            f"{name} has {colour} {thing}.",
            f"{name} gives {number} {thing} to {other}.",
            f"{name} is {generator.choice(COMPARATIVES)} than {other}.",
            f"The {thing} of {name} are {colour}.",
            f"Who is {generator.choice(SUPERLATIVES)}?",
            f"How many {thing} does {name} have?",
            "I see.",
        )
    )


def code(generator: random.Random) -> str:
    """A Python expression over one list."""
    thing, number = generator.choice(THINGS), generator.randint(1, 9)
    function = generator.choice(FUNCTIONS)
    return generator.choice(
        (
            f"{function}({thing})",
            f"{function}({thing}[{number}])",
            f"{thing}[:{number}]",
            f"{thing}[-{number}:]",
            f"{thing}{generator.choice('+-*')}{number}",
        )
    )


def sums(generator: random.Random) -> str:
    """An unfinished sum: digits and signs, no result."""
    operands = [str(generator.randint(1, 99)) for _ in range(generator.randint(2, 3))]
    return generator.choice("+-").join(operands) + generator.choice(("=", "\n####"))


def words(generator: random.Random, shortest: int = 1, longest: int = 7) -> list[str]:
    """Different words in random order."""
    return generator.sample(WORDS, generator.randint(shortest, longest))


def passage(generator: random.Random) -> str:
    """One to three sentences, a line of code, a sum, or plain words."""
    kind = generator.random()
    if kind < 0.5:
        return " ".join(fact(generator) for _ in range(generator.randint(1, 3)))
    if kind < 0.7:
        return code(generator)
    if kind < 0.8:
        return sums(generator)
    return " ".join(words(generator))


def say(generator: random.Random) -> tuple[Message, ...]:
    """Copy a passage."""
    text = passage(generator)
    return conversation(f"Say: {text}", text)


def say_again(generator: random.Random) -> tuple[Message, ...]:
    """Copy an earlier turn."""
    earlier = [passage(generator) for _ in range(generator.randint(1, 3))]
    turns = [turn for text in earlier for turn in (text, "Yes.")]
    return conversation(*turns, "Say my last message again.", earlier[-1])


def repeat(generator: random.Random) -> tuple[Message, ...]:
    """Write one word several times."""
    word, times = generator.choice(WORDS), generator.randint(2, 6)
    return conversation(f"Repeat {word} {times} times.", " ".join([word] * times))


def count_words(generator: random.Random) -> tuple[Message, ...]:
    """Say how many words there are."""
    listed = words(generator)
    return conversation(f"Count the words: {' '.join(listed)}", f"{len(listed)} words")


def count(generator: random.Random) -> tuple[Message, ...]:
    """Count up or down by one."""
    start, step = generator.randint(0, 99), generator.choice((1, -1))
    numbers = [str(start + step * i) for i in range(generator.randint(2, 8))]
    numbers = [number for number in numbers if "-" not in number]
    direction = "up" if step > 0 else "down"
    return conversation(f"Count {direction} from {numbers[0]} to {numbers[-1]}.", " ".join(numbers))


def look_up(generator: random.Random) -> tuple[Message, ...]:
    """Find what a label stands for, or the label."""
    listed = generator.sample(WORDS, 4)
    labelled = " ".join(f"{letter} {word}" for letter, word in zip("ABCD", listed, strict=True))
    place = generator.randrange(4)
    if generator.random() < 0.5:
        return conversation(f"Which letter is {listed[place]}?\n{labelled}", "ABCD"[place])
    return conversation(f"What is {'ABCD'[place]}?\n{labelled}", listed[place])


def follows(generator: random.Random) -> tuple[Message, ...]:
    """Find the word after another."""
    listed = words(generator, shortest=2)
    place = generator.randrange(len(listed) - 1)
    return conversation(
        f"What follows {listed[place]}?\nInput: {' '.join(listed)}", listed[place + 1]
    )


def contains(generator: random.Random) -> tuple[Message, ...]:
    """Say whether a word is there."""
    listed = words(generator, shortest=2)
    asked = generator.choice(listed if generator.random() < 0.5 else WORDS)
    return conversation(
        f"Is {asked} among the words?\nInput: {' '.join(listed)}",
        "Yes." if asked in listed else "No.",
    )


def continue_pattern(generator: random.Random) -> tuple[Message, ...]:
    """Go on with a pattern of two or three words."""
    pattern = words(generator, shortest=2, longest=3)
    return conversation(f"Go on: {' '.join(pattern * 2)}", " ".join(pattern * 2))


SKILLS: tuple[Callable[[random.Random], tuple[Message, ...]], ...] = (
    *(say, say_again, repeat, count_words, count),
    *(look_up, follows, contains, continue_pattern),
)


def draw_conversations(purpose: str, number: int) -> list[tuple[Message, ...]]:
    """Random conversations, every skill equally often."""
    generator = random.Random(purpose)
    return [generator.choice(SKILLS)(generator) for _ in range(number)]


def train_tokenizer(conversations: list[tuple[Message, ...]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, and the ChatML special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[()\[\]:+*=.,?-]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for messages in conversations for m in messages for text in m.values())
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model of about one million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pretrain(
    model: LlamaForCausalLM, examples: list[EncodedExample], pad: int, steps: int
) -> float:
    """Plain language modelling on whole conversations; returns the mean loss of the last steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1 - step / steps)
    )
    batches = shuffled_batches(
        [len(example) for example in examples], BATCH_SIZE, random.Random("pre-training batches")
    )
    model.train()
    recent: list[float] = []
    started = perf_counter()
    for step in range(1, steps + 1):
        batch = collate([examples[position] for position in next(batches)], pad)
        loss = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recent = [*recent[-99:], loss.item()]
        if step % 200 == 0:
            mean = sum(recent) / len(recent)
            print(f"step {step:5d}  loss {mean:.4f}  {perf_counter() - started:5.0f} s", flush=True)
    return sum(recent) / len(recent)


def encode_whole(
    encoder: ChatEncoder, conversations: list[tuple[Message, ...]]
) -> list[EncodedExample]:
    """Conversations with loss on every token but the first."""
    return [
        EncodedExample(encoded.input_ids, (False, *[True] * (len(encoded) - 1)))
        for encoded in encoder.encode_all(conversations)
    ]


def held_out_text(encoder: ChatEncoder) -> str:
    """Conversations of another seed, one after the other."""
    text = ""
    for messages in draw_conversations("held-out text", 1000):
        if len(text) >= HELD_OUT_CHARACTERS:
            break
        text += encoder.render(messages)
    return text


def main() -> None:
    """Build everything and write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    conversations = draw_conversations("pre-training", CONVERSATIONS)
    tokenizer = train_tokenizer(conversations)
    encoder = ChatEncoder(tokenizer, MAX_LENGTH)
    examples = encode_whole(encoder, conversations)
    print(f"{sum(map(len, examples)) / len(examples):.1f} tokens a conversation")
    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    loss = pretrain(model, examples, tokenizer.pad_token_id, arguments.steps)
    print(f"final loss {loss:.4f}")

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "general_text.txt").write_text(held_out_text(encoder), encoding="utf-8")


if __name__ == "__main__":
    main()
