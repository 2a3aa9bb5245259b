"""The examples of a run's tasks: selected, encoded, checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.errors import UserError, foreign_code
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample, EncodingReport
from epi_bench.model.chat.encoding_cache import EncodingCache
from epi_bench.runs.identity import task_fingerprint
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.prepared import PreparedTask
from epi_bench.spec.run_spec import RunSpec
from epi_bench.task.example import Example
from epi_bench.task.example_checks import check_examples
from epi_bench.task.rows.source import SPLITS, Split
from epi_bench.task.split_overlap import trained_conversations
from epi_bench.task.task import Task, changed_task_options

SHOWN_FROM = 2000
"""Training examples of a task from which on the progress of their encoding is told."""


@dataclass(frozen=True)
class Encoding:
    """How the examples of a run are encoded."""

    encoder: ChatEncoder
    cache: EncodingCache
    observer: RunObserver

    def encode(
        self, task: str, examples: Sequence[Example]
    ) -> tuple[list[EncodedExample], EncodingReport]:
        total = len(examples)

        def show(done: int) -> None:
            self.observer.preparing(f"encoding {task}", done, total)

        return self.cache.encode(
            self.encoder,
            [example.messages for example in examples],
            show if total > SHOWN_FROM else None,
        )


def select_examples(
    task: Task, split: Split, count: int | None, examples: Sequence[Example]
) -> list[Example]:
    """``count`` examples of a split, the same for every run; all of them for ``None``.

    Raises:
        UserError: If the split has fewer.
    """
    if count is None:
        return list(examples)
    if count > len(examples):
        raise UserError(
            f"task {task.name!r} has {len(examples)} {split} examples, {count} were asked for: "
            f"lower --{split}-examples"
        )
    positions = random.Random(f"{split} examples of {task.name}").sample(
        range(len(examples)), count
    )
    return [examples[position] for position in sorted(positions)]


def permitted(task: Task, allow_code_execution: bool) -> Task:
    if task.card.needs_code_execution and not allow_code_execution:
        raise UserError(
            f"task {task.name!r} is scored by running code that the model wrote: "
            "permit that with --allow-code-execution"
        )
    return task


def prepare_task(task: Task, spec: RunSpec, encoding: Encoding, code: str | None) -> PreparedTask:
    with foreign_code(f"task {task.name!r} fails to make its examples"):
        published = {split: task.examples(split) for split in SPLITS}
        for split, examples in published.items():
            check_examples(task, split, examples)
    train = select_examples(task, "train", spec.data.train_examples, published["train"])
    test = select_examples(task, "test", spec.data.test_examples, published["test"])
    for split, examples in (("train", train), ("test", test)):
        if not examples:
            raise UserError(f"task {task.name!r} has no {split} examples")
    options = changed_task_options(spec.data.options)
    encoded, report = encoding.encode(task.name, train)
    if not encoded:
        raise UserError(
            f"task {task.name!r}: none of the {len(train)} training examples keeps a supervised "
            f"token within {spec.data.max_length} tokens: raise --max-length"
        )
    return PreparedTask(
        task,
        encoded,
        report,
        test,
        task_fingerprint(task, [*train, *test], code, options.get(task.name)),
        trained_conversations(train),
    )
