"""A local copy of a hub repository gives the same examples as the published JSON files."""

import json
import re

import pytest

from epi_bench import UserError
from epi_bench.task.task import TASKS

INSTRUCTIONS = [
    {"instruction": f"Say {n}", "input": "" if n % 2 else f"{n} or so", "output": f"It is {n}."}
    for n in range(60)
]
DIALOGUES = [
    {
        "prompt": f"Hi {n}",
        "prompt_id": str(n),
        "messages": [
            {"content": f"Hi {n}", "role": "user"},
            {"content": f"Hello {n}\n", "role": "assistant"},
        ],
    }
    for n in range(60)
]
PROBLEMS = [{"question": f"What is {n}?", "answer": f"<<{n}={n}>>{n}\n#### {n}"} for n in range(9)]
FUNCTIONS = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f'def f{n}(x):\n    """ Add {n}. """\n',
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
        "entry_point": f"f{n}",
    }
    for n in range(60)
]

# Task, rows, published file, shards of the hub repository.
LAYOUTS = [
    ("gsm8k", PROBLEMS, "gsm8k/{}.jsonl", "openai/gsm8k/main/{}-00000-of-00001.parquet"),
    (
        "alpaca",
        INSTRUCTIONS,
        "alpaca/alpaca_data.json",
        "alpaca/data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
    ),
    (
        "code_alpaca",
        INSTRUCTIONS,
        "codealpaca/code_alpaca_20k.json",
        "CodeAlpaca-20k/default/train/0000.parquet",
    ),
    (
        "ultrachat",
        DIALOGUES,
        "ultrachat/{}_sft.jsonl",
        "HuggingFaceH4/ultrachat_200k/data/{}_sft-00000-of-00001-f7dfac4afe5b93f4.parquet",
    ),
    (
        "humaneval",
        FUNCTIONS,
        "humaneval/test.jsonl",
        "openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet",
    ),
]


@pytest.mark.parametrize(
    ("name", "rows", "file", "shard"), LAYOUTS, ids=[row[0] for row in LAYOUTS]
)
def test_both_layouts_give_the_same_examples(tmp_path, monkeypatch, name, rows, file, shard):
    import datasets.config
    from datasets import Dataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        published = tmp_path / "published" / file.format(split)
        published.parent.mkdir(parents=True, exist_ok=True)
        as_lines = published.suffix == ".jsonl"
        published.write_text("\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows))
        copied = tmp_path / "copied" / shard.format(split)
        copied.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows).to_parquet(str(copied))
    task_type = TASKS.get(name)
    for split in ("train", "test"):
        ours = task_type(tmp_path / "published").examples(split)
        theirs = task_type(tmp_path / "copied").examples(split)
        assert ours == theirs
        assert len(ours) > 0


@pytest.mark.parametrize("name", TASKS.names())
def test_every_card_is_complete(name):
    task_type = TASKS.get(name)
    card = task_type.card
    assert card.summary and card.licence and task_type.__doc__
    assert card.metric_range[0] < card.metric_range[1]
    if card.source:
        assert set(card.source.splits) == {"train", "test"}
        assert card.source.revision


# Branches, where no commit is known to hold the rows that the adapter was written for.
MOVING = {"logiqa": "refs/convert/parquet", "amazon": "main"}


@pytest.mark.parametrize("name", TASKS.names())
def test_a_hub_data_set_is_pinned_to_a_commit(name):
    source = TASKS.get(name).card.source
    if source is not None:
        assert re.fullmatch(r"[0-9a-f]{40}", source.revision) or source.revision == MOVING.get(name)


@pytest.mark.parametrize("name", [n for n in TASKS.names() if not n.startswith("mini_")])
def test_an_empty_folder_is_an_error_that_says_how_to_fill_it(tmp_path, name):
    with pytest.raises(UserError, match="hf download") as caught:
        TASKS.get(name)(tmp_path).examples("train")
    assert "\n" not in str(caught.value)
