"""Texts as avalanche knows data: pairs of an input and a target, and a model from one to the other.

avalanche hands a model one tensor and expects one back, with the classes in its second dimension.
Here the classes are the tokens of the vocabulary, and a target is the next token at each position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epi_bench.model.batching import IGNORED_LABEL
from epi_bench.model.chat.encoded_example import EncodedExample


class TokenModel(nn.Module):
    """A causal language model as avalanche calls it.

    ``model(x)`` with ``x`` (batch, length, 2), token ids and attention mask, gives the scores of
    the next token (batch, vocabulary, length - 1). The parameters are the language model's own.

    Args:
        model: A causal language model of transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each position's next token."""
        output = self.model(input_ids=x[..., 0], attention_mask=x[..., 1], use_cache=False)
        scores: Tensor = output.logits[:, :-1].transpose(1, 2)
        return scores


def token_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of a batch's supervised tokens, in nats; avalanche's ``criterion``.

    Args:
        scores: As :class:`TokenModel` gives them.
        targets: (batch, length - 1); -100 where there is no loss.
    """
    return nn.functional.cross_entropy(scores.float(), targets, ignore_index=IGNORED_LABEL)


def token_dataset(examples: Iterable[EncodedExample], pad_token_id: int) -> Any:
    """Encoded examples as an ``AvalancheDataset``; its batches are padded to their longest row.

    ``EncodedExample.weight`` is not part of it: avalanche knows no weights of examples.

    Args:
        examples: Each becomes one item.
        pad_token_id: Fills short rows.
    """
    from avalanche.benchmarks.utils import AvalancheDataset

    def collate(items: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Inputs, targets, and task labels where the items have them."""
        longest = max(len(item[0]) for item in items)
        x = torch.zeros(len(items), longest, 2, dtype=torch.long)
        x[..., 0] = pad_token_id
        y = torch.full((len(items), longest - 1), IGNORED_LABEL)
        for row, item in enumerate(items):
            x[row, : len(item[0])] = item[0]
            y[row, : len(item[1])] = item[1]
        labels = [torch.tensor([item[2] for item in items])] if len(items[0]) > 2 else []
        return [x, y, *labels]

    return AvalancheDataset([_Items(list(examples))], collate_fn=collate)


def dataset_examples(dataset: Any) -> list[EncodedExample]:
    """What :func:`token_dataset` was given, of a data set or a part of one."""
    examples = []
    for position in range(len(dataset)):
        x, y = dataset[position][:2]
        supervised = (False, *(y != IGNORED_LABEL).tolist())
        examples.append(EncodedExample(tuple(x[:, 0].tolist()), supervised))
    return examples


class _Items(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Examples that become items when they are read."""

    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return _item(self._examples[position])


def _item(example: EncodedExample) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(example.input_ids)
    shown = torch.tensor(example.supervised)
    targets = torch.where(shown, ids, IGNORED_LABEL)
    return torch.stack([ids, torch.ones_like(ids)], dim=1), targets[1:]
