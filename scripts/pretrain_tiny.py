"""Build the embedded backbone ``tiny``: its tokenizer, its weights and its held-out text.

The model learns the chat format, the vocabulary of the ``mini`` tasks and generic skills (repeat,
copy, count, look up), and none of the skills that the tasks ask for. Everything is drawn from
fixed seeds on one thread: the same machine and library versions give the same files.

    python scripts/pretrain_tiny.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from epi_bench.model.batching import IGNORED_LABEL, collate
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.task.example import Message, conversation
from epi_bench.task.generated_task import SYNTHETIC_WORDS

NAMES, THINGS = SYNTHETIC_WORDS.names, SYNTHETIC_WORDS.things
COLOURS, OPPOSITES = SYNTHETIC_WORDS.colours, SYNTHETIC_WORDS.opposites
FOLDER = Path(__file__).resolve().parent.parent / "epi_bench" / "data" / "tiny"
VOCABULARY_SIZE = 768
WORD_REPEATS = 2_000  # makes each word one token, with and without a blank before it
CONVERSATIONS = 60_000
HELD_OUT_CHARACTERS = 9_000
STEPS = 2_500
BATCH_SIZE = 24
BATCHES_A_BUCKET = 16
LEARNING_RATE = 2.5e-3
PROMPT_WEIGHT = 0.2  # of a prompt's token in the loss; an answer's token weighs 1
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
    *(
        *ADJECTIVES,
        *CONNECTIVES,
        *NOUNS,
        "plus",
        "minus",
        "twice",
        "other",
        "from",
        "see",
        "now",
        "for",
        *(adjective for pair in OPPOSITES for adjective in pair),
        *("not", "opposite", "Opposites", "reversed", "finds", "ones", "Which", "Options"),
    ),
)


def fact(generator: random.Random) -> str:
    """A sentence about people and things."""
    name, other = generator.sample(NAMES, 2)
    thing, colour = generator.choice(THINGS), generator.choice(COLOURS)
    number = generator.randint(1, 99)
    return generator.choice(
        (
            f"{name} has {number} {thing} and {generator.choice(VERBS)} {number}.",
            f"{name} has {colour} {thing}.",
            f"{name} gives {number} {thing} to {other}.",
            f"All {thing} are {colour}.",
            f"They are {generator.choice(generator.choice(OPPOSITES))}.",
            f"What about {name}?",
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
        return " ".join(fact(generator) for _ in range(generator.randint(1, 2)))
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
    earlier = [passage(generator) for _ in range(generator.randint(1, 2))]
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
    """Count on in equal steps, up or down."""
    start, step = generator.randint(0, 99), generator.randint(1, 5)
    up = generator.random() < 0.5
    numbers = [start + (step if up else -step) * turn for turn in range(1, 4)]
    shown = [str(number) for number in numbers if number >= 0] or ["0"]
    direction = "up" if up else "down"
    return conversation(f"Count {direction} by {step} from {start}.", " ".join(shown))


def look_up(generator: random.Random) -> tuple[Message, ...]:
    """Find what labels stand for, or the labels."""
    listed = generator.sample(WORDS, 4)
    labelled = dict(zip("ABCD", listed, strict=True))
    turns: list[str] = []
    for letter in generator.sample("ABCD", generator.randint(1, 3)):
        question, answer = (letter, labelled[letter])
        turns += [question, answer] if generator.random() < 0.5 else [answer, question]
    shown = " ".join(f"{letter} {word}" for letter, word in labelled.items())
    return conversation(f"{turns[0]}?\n{shown}", *turns[1:])


def follows(generator: random.Random) -> tuple[Message, ...]:
    """Find the words after or before others."""
    listed = words(generator, shortest=2)
    turns: list[str] = []
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(len(listed) - 1)
        pair = listed[place], listed[place + 1]
        if generator.random() < 0.5:
            turns += [f"What is after {pair[0]}?", pair[1]]
        else:
            turns += [f"What is before {pair[1]}?", pair[0]]
    return conversation(f"{turns[0]}\nInput: {' '.join(listed)}", *turns[1:])


def continue_pattern(generator: random.Random) -> tuple[Message, ...]:
    """Go on with a pattern of two to eight words."""
    pattern = words(generator, shortest=2, longest=8)
    return conversation(f"Go on: {' '.join(pattern)}", " ".join(pattern * 2))


SKILLS: tuple[Callable[[random.Random], tuple[Message, ...]], ...] = (
    *(say, say_again, repeat, count_words, count, count),
    *(look_up, look_up, follows, follows, continue_pattern),
)


def draw_conversations(purpose: str, number: int) -> list[tuple[Message, ...]]:
    """Random conversations; every entry of ``SKILLS`` is equally likely."""
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
    texts = [text for messages in conversations for m in messages for text in m.values()]
    texts += [text for word in WORDS for text in (word, f"a {word}")] * WORD_REPEATS
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
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        initializer_range=0.06,  # copying is learnt far sooner than from the usual 0.02
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def weighted_loss(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
    """Loss to minimise, over all tokens, and the mean loss of the answers' tokens alone."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    targets = batch["input_ids"][:, 1:]
    losses = cross_entropy(output.logits[:, :-1].transpose(1, 2), targets, reduction="none")
    answers = (batch["labels"][:, 1:] != IGNORED_LABEL).float()
    prompts = batch["attention_mask"][:, 1:] - answers
    weights = answers + PROMPT_WEIGHT * prompts
    answer_loss = float((losses.detach() * answers).sum() / answers.sum())
    return (losses * weights).sum() / weights.sum(), answer_loss


def length_bucketed_batches(
    lengths: Sequence[int], batch_size: int, generator: random.Random
) -> Iterator[list[int]]:
    """Positions of the examples of one batch after the other, those of like length together.

    This drew the shipped model's batches, so it stays. Training draws its steps otherwise
    (:func:`epi_bench.model.batching.drawn_steps`): sorting by length sorts a mixture apart.
    """
    positions = _endless_permutations(len(lengths), generator)
    while True:
        bucket = list(islice(positions, batch_size * BATCHES_A_BUCKET))
        bucket.sort(key=lambda position: lengths[position])
        batches = [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        generator.shuffle(batches)
        yield from batches


def _endless_permutations(count: int, generator: random.Random) -> Iterator[int]:
    while True:
        yield from generator.sample(range(count), count)


def pretrain(
    model: LlamaForCausalLM, examples: list[EncodedExample], pad: int, steps: int
) -> float:
    """Language modelling on whole conversations; returns the answers' loss at the end."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1 - step / steps)
    )
    batches = length_bucketed_batches(
        [len(example) for example in examples], BATCH_SIZE, random.Random("pre-training batches")
    )
    model.train()
    recent: list[float] = []
    started = perf_counter()
    for step in range(1, steps + 1):
        batch = collate([examples[position] for position in next(batches)], pad)
        loss, answer_loss = weighted_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recent = [*recent[-99:], answer_loss]
        if step % 200 == 0:
            mean = sum(recent) / len(recent)
            print(f"step {step:5d}  loss {mean:.4f}  {perf_counter() - started:5.0f} s", flush=True)
    return sum(recent) / len(recent)


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
    examples = [encoder.encode(messages) for messages in conversations]
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
