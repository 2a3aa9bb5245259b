"""The log-likelihood of answer options after a shared prompt.

What the options of one question have in common is read once: the prompt goes through the model by
itself, and its key-value cache is shared by the options.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from epi_bench.evaluation.key_value_cache import (
    accepts_logits_to_keep,
    device_of,
    empty_cache,
    left_padded,
    positions_of,
)
from epi_bench.evaluation.supervised_logits import (
    batches_by_length,
    scores_where,
    supervised_logits,
    supervised_scores,
)
from epi_bench.model.batching import IGNORED_LABEL, collate, length_sorted_batches
from epi_bench.model.chat.encoded_example import EncodedExample

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import DynamicCache


def option_log_likelihoods(
    model: nn.Module,
    questions: Sequence[Sequence[EncodedExample]],
    pad_token_id: int,
    batch_size: int,
) -> list[tuple[float, ...]]:
    """Summed log-likelihood of the supervised tokens of every option, in nats.

    Options of a single token need one forward pass a question. Longer ones share the key-value
    cache of the question; for a model without such a cache each option is read with its question.

    Args:
        model: A causal language model in evaluation mode.
        questions: For each question its options, as
            :meth:`epi_bench.ChatEncoder.options` gives them: the supervised tokens are the
            last ones.
        pad_token_id: Fills up shorter rows.
        batch_size: Rows of a forward pass.
    """
    prompts = _prompts_of(questions)
    sums = _Sums(questions)
    if all(len(option.tokens) == 1 for prompt in prompts for option in prompt.options):
        _score_single_tokens(model, prompts, sums, pad_token_id, batch_size)
    elif empty_cache(model) is not None:
        _score_with_shared_prompts(model, prompts, sums, pad_token_id, batch_size)
    else:
        _score_whole_sequences(model, questions, sums, pad_token_id, batch_size)
    return sums.by_question


@dataclass(frozen=True, slots=True)
class _Option:
    """An option's tokens, and its place: which option of which question it is."""

    question: int
    position: int
    tokens: tuple[int, ...]


@dataclass(slots=True)
class _Prompt:
    """The tokens before some options."""

    ids: tuple[int, ...]
    options: list[_Option] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


class _Sums:
    """The log-likelihoods found so far, 0 at first."""

    def __init__(self, questions: Sequence[Sequence[EncodedExample]]) -> None:
        self._sums = [[0.0] * len(options) for options in questions]

    def add(self, question: int, position: int, value: float) -> None:
        self._sums[question][position] += value

    @property
    def by_question(self) -> list[tuple[float, ...]]:
        return [tuple(sums) for sums in self._sums]


def _prompts_of(questions: Sequence[Sequence[EncodedExample]]) -> list[_Prompt]:
    """Each question's prompt; there are several where long options left less room for it."""
    prompts: dict[tuple[int, tuple[int, ...]], _Prompt] = {}
    for question, options in enumerate(questions):
        for position, encoded in enumerate(options):
            start = len(encoded) - encoded.supervised_tokens
            prefix = encoded.input_ids[:start]
            prompt = prompts.setdefault((question, prefix), _Prompt(prefix))
            prompt.options.append(_Option(question, position, encoded.input_ids[start:]))
    return list(prompts.values())


def _score_single_tokens(
    model: nn.Module, prompts: Sequence[_Prompt], sums: _Sums, pad_token_id: int, batch_size: int
) -> None:
    # One option's token stays behind its prompt: what is scored is the position before it.
    rows = [
        EncodedExample((*prompt.ids, prompt.options[0].tokens[0]), (*[False] * len(prompt), True))
        for prompt in prompts
    ]
    for positions, batch in batches_by_length(rows, pad_token_id, batch_size, model):
        found = supervised_logits(model, batch)
        final = found.logits[found.predicting].float().log_softmax(dim=-1)
        for row, position in enumerate(positions):
            for option in prompts[position].options:
                value = float(final[row, option.tokens[0]].double())
                sums.add(option.question, option.position, value)


def _score_with_shared_prompts(
    model: nn.Module, prompts: Sequence[_Prompt], sums: _Sums, pad_token_id: int, batch_size: int
) -> None:
    for positions in length_sorted_batches([len(prompt) for prompt in prompts], batch_size):
        batch = [prompts[position] for position in positions]
        ids, mask = left_padded([prompt.ids for prompt in batch], pad_token_id, device_of(model))
        cache = empty_cache(model)
        first = _last_logits(model, ids, mask, cache).float().log_softmax(dim=-1)
        waiting: list[tuple[int, _Option]] = []  # row of the prompt, option
        for row, prompt in enumerate(batch):
            for option in prompt.options:
                value = float(first[row, option.tokens[0]].double())
                sums.add(option.question, option.position, value)
                if len(option.tokens) > 1:
                    waiting.append((row, option))
        for start in range(0, len(waiting), batch_size):
            part = waiting[start : start + batch_size]
            is_last = start + batch_size >= len(waiting)
            shared = cache if is_last else copy.deepcopy(cache)
            found = _continuation_sums(model, part, mask, shared, pad_token_id)
            for (_, option), value in zip(part, found, strict=True):
                sums.add(option.question, option.position, value)


def _last_logits(model: nn.Module, ids: Tensor, mask: Tensor, cache: DynamicCache | None) -> Tensor:
    """Logits after the last token (batch, vocabulary); the cache is filled."""
    keep: dict[str, Any] = {"logits_to_keep": 1} if accepts_logits_to_keep(model) else {}
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions_of(mask),
        past_key_values=cache,
        use_cache=True,
        **keep,
    )
    return output.logits[:, -1]


def _continuation_sums(
    model: nn.Module,
    part: Sequence[tuple[int, _Option]],
    prompt_mask: Tensor,
    cache: Any,
    pad_token_id: int,
) -> list[float]:
    """Log-likelihood of the options' tokens after the first; the cache is used up."""
    device = prompt_mask.device
    rows = torch.tensor([row for row, _ in part], device=device)
    cache.batch_select_indices(rows)
    batch = collate(
        [EncodedExample(option.tokens, (True,) * len(option.tokens)) for _, option in part],
        pad_token_id,
        device,
    )
    mask = torch.cat([prompt_mask[rows], batch["attention_mask"][:, :-1]], dim=1)
    length = batch["input_ids"].shape[1] - 1
    logits = model(
        input_ids=batch["input_ids"][:, :-1],
        attention_mask=mask,
        position_ids=positions_of(mask)[:, -length:],
        past_key_values=cache,
        use_cache=True,
    ).logits
    labels = batch["labels"][:, 1:]
    log_probabilities, _ = scores_where(labels != IGNORED_LABEL, logits, labels)
    return log_probabilities.double().sum(dim=1).tolist()


def _score_whole_sequences(
    model: nn.Module,
    questions: Sequence[Sequence[EncodedExample]],
    sums: _Sums,
    pad_token_id: int,
    batch_size: int,
) -> None:
    places = [(q, o) for q, options in enumerate(questions) for o in range(len(options))]
    flat = [questions[question][option] for question, option in places]
    for positions, batch in batches_by_length(flat, pad_token_id, batch_size, model):
        totals = supervised_scores(model, batch).log_probabilities.double().sum(dim=1).tolist()
        for position, total in zip(positions, totals, strict=True):
            sums.add(*places[position], total)
