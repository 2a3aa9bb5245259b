"""Tasks drawn by a seeded generator: whole splits, the same every time, no prompt twice."""

from __future__ import annotations

from epi_bench import SYNTHETIC_WORDS, Example, GeneratedTask, TaskCard, conversation


class Sums(GeneratedTask):
    """Sums of two numbers below 10: 100 prompts, of which 90 are asked for."""

    name = "sums"
    card = TaskCard("add", "math", "teacher_forced", "exact_match", "Apache-2.0")
    train_count = 70
    test_count = 20

    def draw(self, generator):
        a, b = generator.randrange(10), generator.randrange(10)
        return Example(conversation(f"{a} + {b} =", str(a + b)), str(a + b))


class OtherSums(Sums):
    name = "other_sums"


def prompts(examples):
    return [example.prompt[0]["content"] for example in examples]


def test_splits_have_their_sizes_and_share_no_prompt():
    train, test = Sums().examples("train"), Sums().examples("test")
    assert (len(train), len(test)) == (70, 20)
    assert len({*prompts(train), *prompts(test)}) == 90


def test_the_examples_depend_on_the_tasks_name_alone():
    assert Sums().examples("train") == Sums().examples("train")
    assert Sums().examples("train") != OtherSums().examples("train")


def test_a_conversation_begins_with_the_user():
    assert conversation("Hi", "Hello.", "Why?") == (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    )


def test_no_word_stands_for_two_things():
    words = SYNTHETIC_WORDS
    adjectives = [adjective for pair in words.opposites for adjective in pair]
    every = [*words.names, *words.things, *words.colours, *adjectives]
    assert len(set(every)) == len(every) == 16 + 16 + 8 + 30
