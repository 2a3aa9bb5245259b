"""One example as the model sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from epi_bench.errors import UserError
from epi_bench.foreign_text import terminal_text

if TYPE_CHECKING:
    from epi_bench.spec.run_spec import ModelSpec
    from epi_bench.task.task import Task

LONGEST_SHOWN = 4096
"""Tokens of an example that are shown."""


def render_example(task: Task, model: ModelSpec, index: int) -> Group:
    """A training example through a model's chat template, supervised tokens marked.

    Raises:
        UserError: If the task has fewer examples.
    """
    from epi_bench.model.chat.chat_encoder import ChatEncoder
    from epi_bench.model.load import load_tokenizer
    from epi_bench.model.location import locate_model

    examples = task.examples("train")
    if index >= len(examples):
        raise UserError(
            f"task {task.name!r} has {len(examples)} training examples; --index {index} is too high"
        )
    tokenizer = load_tokenizer(locate_model(model))
    encoded = ChatEncoder(tokenizer, LONGEST_SHOWN).encode(examples[index].messages)
    text = Text()
    run: list[int] = []
    for position, token in enumerate(encoded.input_ids):
        run.append(token)
        last = position + 1 == len(encoded)
        if last or encoded.supervised[position + 1] != encoded.supervised[position]:
            piece = str(tokenizer.decode(run, skip_special_tokens=False))
            if encoded.supervised[position]:
                text.append(terminal_text(f"⟦{piece}⟧", "bold green", several_lines=True))
            else:
                text.append(terminal_text(piece, "dim", several_lines=True))
            run = []
    title = Text(
        f"\nTraining example {index} of {len(examples)}: {len(encoded)} tokens, "
        f"{encoded.supervised_tokens} supervised (between ⟦ and ⟧)\n",
        style="bold",
    )
    return Group(title, text)
