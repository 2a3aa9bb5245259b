"""Streams of texts as benchmarks of avalanche, for avalanche's own strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epi_bench.bridges.experience_rows import encoded
from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategy.avalanche_tokens import token_dataset
from epi_bench.strategy.hooks import Experience

Stream = Sequence[Experience] | Mapping[str, Sequence[Any]]
"""Experiences of this package, or rows with ``input_ids`` and ``labels`` by name."""


def to_avalanche(stream: Stream, *, pad_token_id: int, test: Stream = ()) -> Any:
    """A benchmark of avalanche with the experiences of a stream, in their order.

    An item is ``(x, y, task label)``: token ids and attention mask (length, 2), and the next token
    at each position (length - 1), -100 where there is no loss. A batch is padded to its longest
    row. Train :class:`TokenModel` on it with the criterion :func:`token_loss`:

    .. code-block:: python

        benchmark = to_avalanche(stream, pad_token_id=tokenizer.pad_token_id)
        strategy = Naive(
            model=TokenModel(model),
            optimizer=optimizer,
            criterion=token_loss,
            train_mb_size=8,
            evaluator=EvaluationPlugin(loss_metrics(experience=True)),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)

    Args:
        stream: What is trained: experiences, or by name rows with ``input_ids`` and ``labels``
            (-100 where there is no loss), each a list or a tensor of numbers.
        pad_token_id: Fills short rows.
        test: What avalanche evaluates on, likewise; none for a benchmark without a test stream.

    Returns:
        A ``CLScenario`` with ``train_stream``, and ``test_stream`` where there is a test. The task
        label of an experience is its position.

    Raises:
        UserError: If there is no experience, one has no examples, or a row has none to predict.
    """
    from avalanche.benchmarks import benchmark_from_datasets, task_incremental_benchmark

    streams = {"train": _datasets(stream, pad_token_id)}
    if not streams["train"]:
        raise UserError("to_avalanche: the stream has no experience")
    if test:
        streams["test"] = _datasets(test, pad_token_id)
    # without task labels avalanche's strategies drop the function that pads a batch
    return task_incremental_benchmark(benchmark_from_datasets(**streams))


def _datasets(stream: Stream, pad_token_id: int) -> list[Any]:
    named = (
        {name: _encoded(rows) for name, rows in stream.items()}
        if isinstance(stream, Mapping)
        else {f"{e.index} {e.name}": list(e.examples) for e in stream}
    )
    for name, examples in named.items():
        if not examples:
            raise UserError(f"to_avalanche: experience {name!r} has no examples")
    return [token_dataset(examples, pad_token_id) for examples in named.values()]


def _encoded(rows: Sequence[Any]) -> list[EncodedExample]:
    import torch

    return [
        encoded(
            {
                key: torch.as_tensor(row[key])[None]
                for key in ("input_ids", "labels", "attention_mask")
                if key in row
            },
            number,
        )
        for number, row in enumerate(rows)
    ]
