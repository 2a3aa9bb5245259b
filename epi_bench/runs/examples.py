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
from epi_bench.runs.prepared import PreparedTask, ScoredTask
from epi_bench.spec.run_spec import DataSpec
from epi_bench.task.example import Example
from epi_bench.task.example_checks import check_examples
from epi_bench.task.rows.source import SPLITS, Split
from epi_bench.task.split_overlap import trained_conversations
from epi_bench.task.task import Task, changed_task_options

EVAL_SPLITS: tuple[Split, ...] = ("test",)
"""Splits that are read of a task that is scored and never trained."""

SHOWN_FROM = 2000
"""Training examples of a task above which the progress of their encoding is reported."""


@dataclass(frozen=True)
class ExampleEncoding:
    """How the training examples of a run become tokens.

    Attributes:
        encoder: Of the model's tokenizer.
        cache: Keeps encoded examples between runs.
        observer: Hears how the encoding of large data sets goes on.
    """

    encoder: ChatEncoder
    cache: EncodingCache
    observer: RunObserver

    def encode(
        self, task: str, examples: Sequence[Example]
    ) -> tuple[list[EncodedExample], EncodingReport]:
        """Encode a task's training examples.

        Args:
            task: Its name, for the progress.
            examples: Its conversations.

        Returns:
            The examples that have something to learn from, in their order, and what became of all.
        """
        total = len(examples)

        def show(done: int) -> None:
            self.observer.preparing(f"encoding {task}", done, total)

        return self.cache.training(
            self.encoder,
            [example.messages for example in examples],
            show if total > SHOWN_FROM else None,
        )


def permitted(task: Task, allow_code_execution: bool) -> Task:
    """The task, if it may do what its scoring needs.

    Raises:
        UserError: If it runs code that the model wrote, and that was not permitted.
    """
    if task.card.needs_code_execution and not allow_code_execution:
        raise UserError(
            f"task {task.name!r} is scored by running code that the model wrote: "
            "permit that with allow_code_execution",
            setting="allow_code_execution",
        )
    return task


def prepare_task(
    task: Task, data: DataSpec, encoding: ExampleEncoding, code: str | None
) -> PreparedTask:
    """Read, check, select and encode the examples of a task.

    Args:
        task: Makes the examples.
        data: How many of each split, and how long they may be.
        encoding: Encodes those to train on.
        code: Hash of the task's source, if it comes from a plugin.

    Raises:
        UserError: If the task cannot make its examples, has too few, or none with anything to
            learn from.
    """
    published = published_examples(task)
    train = select_examples(task, "train", data.train_examples, published["train"])
    test = select_examples(task, "test", data.test_examples, published["test"])
    for split, examples in (("train", train), ("test", test)):
        if not examples:
            raise UserError(f"task {task.name!r} has no {split} examples")
    options = changed_task_options(data.options)
    encoded, report = encoding.encode(task.name, train)
    if not encoded:
        raise UserError(
            f"task {task.name!r}: none of the {len(train)} training examples keeps a supervised "
            f"token within {data.max_length} tokens: raise data.max_length",
            setting="data.max_length",
        )
    return PreparedTask(
        task=task,
        train=encoded,
        report=report,
        test=test,
        fingerprint=task_fingerprint(task, [*train, *test], code, options.get(task.name)),
        trained=trained_conversations(train),
    )


def prepare_eval_task(task: Task, data: DataSpec, code: str | None) -> ScoredTask:
    """Read, check and select the test examples of a task that is scored and never trained.

    Its training split is not read, and need not exist.

    Args:
        task: Makes the examples.
        data: How many test examples.
        code: Hash of the task's source, if it comes from a plugin.

    Raises:
        UserError: If the task cannot make its test examples, or has too few.
    """
    published = published_examples(task, EVAL_SPLITS)
    test = select_examples(task, "test", data.test_examples, published["test"])
    if not test:
        raise UserError(f"task {task.name!r} has no test examples")
    options = changed_task_options(data.options).get(task.name)
    return ScoredTask(task=task, test=test, fingerprint=task_fingerprint(task, test, code, options))


def published_examples(
    task: Task, splits: Sequence[Split] = SPLITS
) -> dict[Split, Sequence[Example]]:
    """All examples of splits, checked.

    Args:
        task: Makes them.
        splits: Which ones are read.

    Raises:
        UserError: If the task cannot make them, or makes what a run cannot use.
    """
    with foreign_code(f"task {task.name!r} fails to make its examples"):
        published = {split: task.examples(split) for split in splits}
        for split, examples in published.items():
            check_examples(task, split, examples)
    return published


def select_examples(
    task: Task, split: Split, count: int | None, examples: Sequence[Example]
) -> list[Example]:
    """``count`` examples of a split in their order, the same for every run; ``None`` takes all.

    Args:
        task: Whose they are.
        split: Which of its splits.
        count: How many to take.
        examples: The whole split.

    Raises:
        UserError: If the split has fewer.
    """
    if count is None:
        return list(examples)
    if count > len(examples):
        raise UserError(
            f"task {task.name!r} has {len(examples)} {split} examples, {count} were asked for: "
            f"lower data.{split}_examples",
            setting=f"data.{split}_examples",
        )
    draws = random.Random(f"{split} examples of {task.name}")
    return [examples[position] for position in sorted(draws.sample(range(len(examples)), count))]
