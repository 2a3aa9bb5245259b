"""The text that a user gives for the loss on general text: a file, or the test of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.errors import UserError, unknown_name
from epi_bench.foreign_text import for_terminal
from epi_bench.model.text_file import MOST_CHARACTERS, read_text_file, texts_fingerprint
from epi_bench.runs.examples import EVAL_SPLITS, published_examples, select_examples
from epi_bench.spec.run_spec import DataSpec
from epi_bench.spec.toml import is_file_name
from epi_bench.task.example import Example
from epi_bench.task.task import TASKS, create_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTING = "data.general_text"

FEW_TOKENS = 500
"""A text with fewer is said to be short: the mean over so few changes with a word or two."""


@dataclass(frozen=True)
class GivenText:
    """A general text that was given.

    Attributes:
        source: What the user wrote: a path, or a task's name.
        texts: The file's, or one for each test example of the task.
        is_cut: Whether there was more than is read.
    """

    source: str
    texts: tuple[str, ...]
    is_cut: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the texts: the same texts are the same wherever they lie."""
        return texts_fingerprint(self.texts)

    def warnings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What the user should know of it.

        Args:
            tokenizer: Of the model.

        Raises:
            UserError: If nothing of it can be predicted.
        """
        from epi_bench.model.chat.text_tokens import text_token_ids

        lengths = [len(text_token_ids(tokenizer, text)) for text in self.texts]
        shown = for_terminal(self.source)
        if max(lengths) < 2:
            raise UserError(
                f"general_text={shown}: no text in it has more than a single token: "
                "give a longer one",
                setting=SETTING,
            )
        lines = []
        if sum(lengths) < FEW_TOKENS:
            lines.append(
                f"the general text {shown} has only {sum(lengths)} tokens: the loss on it is a "
                "rough measure of what the model keeps; give a longer one"
            )
        if self.is_cut:
            lines.append(
                f"of the general text {shown} the first {MOST_CHARACTERS:,} characters are read"
            )
        return lines


def given_text(data: DataSpec, data_dir: Path | None = None) -> GivenText | None:
    """The general text that a run names; ``None`` if it names none.

    Args:
        data: Its ``general_text``, and of a task the options and the number of test examples.
        data_dir: Folder with local data sets; ``None`` loads from the hub.

    Raises:
        UserError: If it is neither a text file nor a task, or cannot be read.

    Example:
        .. code-block:: python

            given_text(DataSpec(general_text="held_out.txt")).texts
    """
    source = data.general_text
    if source is None:
        return None
    if TASKS.knows(source):
        return _test_of(source, data, data_dir)
    if is_file_name(source):
        raise UserError(
            f"general_text={for_terminal(source)} is a task file: give it with data.eval_tasks, "
            "and write the task's name here",
            setting=SETTING,
        )
    path = Path(source).expanduser()
    try:
        found = bool(source) and path.is_file()
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise UserError(f"cannot read {path}: {error.strerror}", setting=SETTING) from error
    if not found:
        if source.isidentifier():
            unknown = unknown_name("task or text file", source, TASKS.names())
            raise UserError(f"general_text: {unknown}", setting=SETTING)
        raise UserError(
            f"general_text={source!r} is no text file: give the path of a .txt or .jsonl file, or "
            "the name of a task",
            setting=SETTING,
        )
    return GivenText(source, *read_text_file(path))


def _test_of(name: str, data: DataSpec, data_dir: Path | None) -> GivenText:
    """The conversations of a task's test examples, each a text of its own."""
    task = create_task(name, data_dir, data.options.get(name))
    published = published_examples(task, EVAL_SPLITS)
    chosen = select_examples(task, "test", data.test_examples, published["test"])
    texts = [text for text in map(_text_of, chosen) if text.strip()]
    if not texts:
        raise UserError(f"general_text: task {name!r} has no test examples", setting=SETTING)
    kept, characters = [], 0
    for text in texts:
        if characters >= MOST_CHARACTERS:
            break
        kept.append(text)
        characters += len(text)
    return GivenText(name, tuple(kept), is_cut=len(kept) < len(texts))


def _text_of(example: Example) -> str:
    """What is said in a conversation, without the marks of a chat."""
    return "\n".join(message["content"] for message in example.messages)
