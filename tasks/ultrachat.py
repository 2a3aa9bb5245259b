"""UltraChat 200k: dialogues of several turns (Ding et al. 2023, arXiv 2305.14233)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epi_bench import (
    DatasetTask,
    DataSource,
    Example,
    Message,
    Prediction,
    Row,
    Skipped,
    TaskCard,
    is_missing,
    register_task,
    score_text,
)

_TRAIN_FILES = ("ultrachat/train_sft.jsonl", "ultrachat/train_sft_1k.jsonl")


@register_task("ultrachat")
class UltraChat(DatasetTask):
    """Dialogues; every assistant turn is learned, the last one is asked for in the test.

    The test gives the model the true history and compares its last answer with the reference.
    Rows are ``messages`` in chat format, or ``data``, the list of strings of the first release in
    which user and assistant take turns. Where there is no file of the test split, a tenth of the
    training dialogues is for testing, chosen by the hash of their first message.
    """

    card = TaskCard(
        summary="Dialogues of several turns; the last answer is scored",
        ability="chat",
        scoring="generate",
        metric="rouge_l",
        licence="MIT",
        max_new_tokens=384,
        version=2,
        source=DataSource(
            hub_id="HuggingFaceH4/ultrachat_200k",
            config=None,
            revision="8049631c405ae6576f93f445c6b8166f76f5505a",
            splits={"train": "train_sft", "test": "test_sft"},
            files={
                "train": _TRAIN_FILES,
                "test": (
                    "ultrachat/test_sft.jsonl",
                    "ultrachat/test_sft_1k.jsonl",
                    *_TRAIN_FILES,
                ),
            },
        ),
    )

    def example_from_row(self, row: Row) -> Example | Skipped:
        """The whole dialogue, with its last turn as the reference."""
        messages = _messages(row)
        if isinstance(messages, Skipped):
            return messages
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if any(not message["content"].strip() for message in messages):
            return Skipped("empty message")
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            return Skipped("roles do not alternate from user to assistant")
        return Example(tuple(messages), reference=messages[-1]["content"], meta={"row": row.index})

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """ROUGE-L and chrF of the last answer, from 0 to 1."""
        return score_text(prediction.text, example.reference, ("rouge_l", "chrf"))


def _messages(row: Row) -> list[Message] | Skipped:
    turns = row.value("messages", "data")
    if turns is None:
        return Skipped("no dialogue")
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise row.error("has no list of turns in field 'messages' or 'data'")
    if all(isinstance(turn, str) for turn in turns):
        return [
            {"role": "assistant" if position % 2 else "user", "content": turn}
            for position, turn in enumerate(turns)
        ]
    messages: list[Message] = []
    for turn in turns:
        if is_missing(turn):
            return Skipped("empty message")
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            raise row.error("has a message without 'role' and 'content'")
        role, content = turn["role"], turn["content"]
        if is_missing(role) or is_missing(content):
            return Skipped("empty message")
        if not isinstance(role, str) or not isinstance(content, str):
            raise row.error("has a message whose 'role' or 'content' is no text")
        messages.append({"role": role, "content": content})
    return messages
