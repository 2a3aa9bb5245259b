"""The cache of encoded examples: the same tokens, kept by content, and never a reason to fail."""

import ast
import importlib.util
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from epi_bench.model.chat import chat_encoder, encoding_cache
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoding_cache import EncodingCache, encoding_key

LONG = "red green blue " * 40


def conversations(count=1000):
    """One in ten is cut, one in a hundred has nothing left to learn from."""
    made = []
    for n in range(count):
        question, answer = (LONG, "one") if n % 100 == 0 else (f"copy {n}", f"word {n}")
        answer = LONG if n % 10 == 1 else answer
        made.append(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
    return made


@pytest.fixture
def encoder(toy_model):
    return ChatEncoder(AutoTokenizer.from_pretrained(toy_model), 64)


@pytest.fixture
def no_encoding(monkeypatch):
    """Makes every encoding an error, so that only the cache can answer."""

    def forbid():
        def fail(*arguments, **keywords):
            raise AssertionError("encoded again")

        monkeypatch.setattr(ChatEncoder, "training", fail)

    return forbid


def test_the_second_time_nothing_is_encoded_and_all_is_the_same(tmp_path, encoder, no_encoding):
    data = conversations()
    direct = encoder.training(data)
    assert (direct[1].encoded, direct[1].truncated, direct[1].unsupervised) == (990, 100, 10)
    first = EncodingCache(tmp_path / "a" / "b").training(encoder, data)
    no_encoding()
    cache = EncodingCache(tmp_path / "a" / "b")
    assert cache.training(encoder, data) == first == direct
    assert cache.warnings == []


def test_small_data_sets_are_not_kept(tmp_path, encoder):
    EncodingCache(tmp_path).training(encoder, conversations(999))
    assert list(tmp_path.iterdir()) == []


def test_whatever_determines_the_tokens_makes_another_key(toy_model, encoder):
    def key(max_length=64, data=None, change=None, **options):
        tokenizer = AutoTokenizer.from_pretrained(toy_model)
        if change:
            change(tokenizer)
        return encoding_key(ChatEncoder(tokenizer, max_length, **options), data or conversations(3))

    def other_template(tokenizer):
        tokenizer.chat_template += " "

    def other_end(tokenizer):
        tokenizer.eos_token = "<|endoftext|>"

    def more_tokens(tokenizer):
        tokenizer.add_tokens(["purple"])

    keys = [
        key(),
        key(max_length=65),
        key(mask_history=True),
        key(template_arguments={"enable_thinking": True}),
        key(change=other_template),
        key(change=other_end),
        key(change=more_tokens),
        key(data=conversations(4)),
        key(data=conversations(3)[::-1]),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0] == encoding_key(encoder, conversations(3))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_entry_is_made_again_with_a_warning(tmp_path, encoder, damage):
    data = conversations()
    expected = EncodingCache(tmp_path).training(encoder, data)
    (entry,) = tmp_path.iterdir()
    content = bytearray(entry.read_bytes())
    content[-100] ^= 1
    damaged = {"cut": content[:-50], "flipped": content, "empty": b"", "other": b"hello" * 9}
    entry.write_bytes(damaged[damage])
    cache = EncodingCache(tmp_path)
    assert cache.training(encoder, data) == expected
    assert len(cache.warnings) == 1
    assert "is damaged" in cache.warnings[0] and str(entry) in cache.warnings[0]
    healed = EncodingCache(tmp_path)
    assert healed.training(encoder, data) == expected
    assert healed.warnings == []


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, encoder):
    (tmp_path / "file").write_text("")
    cache = EncodingCache(tmp_path / "file" / "folder")
    data = conversations()
    assert cache.training(encoder, data) == encoder.training(data)
    assert any("cannot be written" in warning for warning in cache.warnings)


def test_an_interrupted_writing_leaves_nothing(tmp_path, encoder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoding_cache.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        EncodingCache(tmp_path).training(encoder, conversations())
    assert list(tmp_path.iterdir()) == []


def test_the_longest_unused_entries_make_room(tmp_path, encoder, monkeypatch):
    for count in (1000, 1001, 1002):
        EncodingCache(tmp_path).training(encoder, conversations(count))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    monkeypatch.setattr(encoding_cache, "MAX_CACHE_BYTES", sum(sizes) + 1000)
    paths = {
        count: tmp_path / f"{encoding_key(encoder, conversations(count))}.safetensors"
        for count in (1000, 1001, 1002, 1003)
    }
    for age, count in enumerate((1002, 1001, 1000)):
        os.utime(paths[count], (age, age))
    EncodingCache(tmp_path).training(encoder, conversations(1002))  # used: now the newest
    EncodingCache(tmp_path).training(encoder, conversations(1003))
    assert sorted(n for n, path in paths.items() if path.is_file()) == [1000, 1002, 1003]


def test_the_folder_is_chosen_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EPI_BENCH_CACHE", str(tmp_path))
    assert EncodingCache().folder == tmp_path / "encoded"
    monkeypatch.setenv("EPI_BENCH_CACHE", "off")
    assert EncodingCache().folder is None


def test_progress_counts_up_to_the_end(tmp_path, encoder):
    seen = []
    EncodingCache(tmp_path).training(encoder, conversations(2500), seen.append)
    assert seen == [1000, 2000, 2500]


def test_the_key_covers_all_code_that_encodes():
    """What ``chat_encoder`` imports of this package lies beside it, and that folder is hashed."""
    reached, waiting = set(), [chat_encoder.__name__]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text("utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        waiting += [node.module for node in imports if node.module.startswith("epi_bench.")]
    folder = encoding_cache.__name__.rpartition(".")[0] + "."
    elsewhere = {module for module in reached if not module.startswith(folder)}
    shown = {module for module in elsewhere if module.startswith("epi_bench.foreign_text")}
    assert elsewhere - shown == {"epi_bench.errors", "epi_bench.task.example"}  # messages only
    assert {f"{folder}{n}" for n in ("template_shape", "turn_search", "rendering")} <= reached


def test_another_source_makes_another_key(tmp_path, encoder, monkeypatch):
    before = encoding_key(encoder, conversations(3))
    for path in Path(encoding_cache.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "turn_search.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(encoding_cache, "__file__", str(tmp_path / "encoding_cache.py"))
    encoding_cache._code_hash.cache_clear()
    changed = encoding_key(encoder, conversations(3))
    monkeypatch.undo()
    encoding_cache._code_hash.cache_clear()
    assert changed != before == encoding_key(encoder, conversations(3))
