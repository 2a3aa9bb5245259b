"""The rows of somebody's data set as a strategy knows examples: tokens, and which carry loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from epi_bench.errors import UserError
from epi_bench.model.batching import IGNORED_LABEL
from epi_bench.model.chat.encoded_example import EncodedExample


class EncodedRows(Sequence[EncodedExample]):
    """A data set as encoded examples, each encoded when it is first read, and kept from then on.

    Many strategies read no example at all, and for them nothing is encoded.

    Args:
        rows: Has a length and gives a row for a position.
        batch_of_one: Makes a batch of a row: ``input_ids`` (1, length), where tokens are predicted
            ``labels``, and where there is padding ``attention_mask``.
    """

    def __init__(self, rows: Any, batch_of_one: Callable[[Any], Mapping[str, Any]]) -> None:
        self._rows = rows
        self._batch_of_one = batch_of_one
        self._encoded: dict[int, EncodedExample] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, position: slice) -> list[EncodedExample]: ...
    def __getitem__(self, position: int | slice) -> EncodedExample | list[EncodedExample]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        number = position + len(self) if position < 0 else position
        if not 0 <= number < len(self):
            raise IndexError(position)
        if number not in self._encoded:
            self._encoded[number] = encoded(self._batch_of_one(self._rows[number]), number)
        return self._encoded[number]


class NoExamples(Sequence[EncodedExample]):
    """Examples that were not given: whoever reads them is told how to give them.

    Args:
        remedy: How.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def __len__(self) -> int:
        raise UserError(f"the strategy needs the experience's examples: {self._remedy}")

    @overload
    def __getitem__(self, position: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, position: slice) -> list[EncodedExample]: ...
    def __getitem__(self, position: int | slice) -> EncodedExample | list[EncodedExample]:
        raise UserError(f"the strategy needs the experience's examples: {self._remedy}")


def encoded(batch: Mapping[str, Any], number: int) -> EncodedExample:
    """The one row of a batch.

    Args:
        batch: ``input_ids``, ``labels`` and as a rule ``attention_mask``, each (1, length).
        number: Of the row, for messages.

    Raises:
        UserError: If it is something else than text whose own tokens are predicted.
    """
    for key in ("input_ids", "labels"):
        if key not in batch:
            raise UserError(
                f"row {number} of the training data gives no {key!r}: a strategy needs rows of "
                "tokens of which some are predicted"
            )
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if len(ids) != 1:
        raise UserError(f"row {number} of the training data becomes {len(ids)} rows in a batch")
    shown = batch["attention_mask"].tolist()[0] if "attention_mask" in batch else [1] * len(ids[0])
    tokens = [(i, label) for i, label, here in zip(ids[0], labels[0], shown, strict=True) if here]
    if any(label not in (token, IGNORED_LABEL) for token, label in tokens):
        raise UserError(
            f"row {number} of the training data has labels other than its own tokens and "
            f"{IGNORED_LABEL}: strategies know causal language models only"
        )
    return EncodedExample(
        tuple(token for token, _ in tokens), tuple(label != IGNORED_LABEL for _, label in tokens)
    )
