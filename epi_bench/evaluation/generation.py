"""Greedy generation of many answers.

Each step a row needs the likeliest next token and nothing else, so this loop does less than
``generate`` of transformers: a row that has ended leaves the batch, and its part of the key-value
cache is freed. The tokens are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from epi_bench.evaluation.key_value_cache import (
    accepts_logits_to_keep,
    device_of,
    empty_cache,
    left_padded,
    positions_of,
)
from epi_bench.model.batching import length_sorted_batches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

    from epi_bench.evaluation.answers import AnswerReader

_WITHOUT_EFFECT = {
    "bos_token_id", "cache_implementation", "do_sample", "eos_token_id", "length_penalty",
    "max_length", "max_new_tokens", "min_p", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "return_dict_in_generate", "stop_strings",
    "temperature",
    "top_k", "top_p", "transformers_version", "typical_p", "use_cache",
}  # fmt: skip
"""Generation settings that do not change which token greedy decoding takes."""

_NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0}
"""Values of other settings that turn them off, as ``None`` and ``False`` do for all."""


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Collection[int],
    pad_token_id: int,
    batch_size: int,
    reader: AnswerReader | None = None,
) -> list[list[int]]:
    """The likeliest continuation of every prompt, token by token, without the token that ends it.

    Models whose ``generation_config`` changes the choice of the next token (a repetition penalty,
    say) and models without a key-value cache go through ``model.generate``.

    Args:
        model: In evaluation mode.
        prompts: Token ids; none is empty.
        max_new_tokens: Longest answer.
        stop: Token ids that end an answer.
        pad_token_id: Fills up shorter prompts on the left.
        batch_size: Prompts answered at once, longest first.
        reader: Knows the texts that end an answer, where the model's ``generation_config`` names
            any (``stop_strings``); the result may hold tokens after such a text.
    """
    plain = empty_cache(model) is not None and _chooses_plainly(model)
    answers: list[list[int]] = [[] for _ in prompts]
    for positions in length_sorted_batches([len(prompt) for prompt in prompts], batch_size):
        batch = [prompts[position] for position in positions]
        ids, mask = left_padded(batch, pad_token_id, device_of(model))
        if plain:
            found = _decode(model, ids, mask, max_new_tokens, frozenset(stop), reader)
        else:
            found = _generate(model, ids, mask, max_new_tokens, stop, pad_token_id, reader)
        for position, answer in zip(positions, found, strict=True):
            answers[position] = answer
    return answers


def _decode(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    stop: frozenset[int],
    reader: AnswerReader | None,
) -> list[list[int]]:
    cache: DynamicCache | None = empty_cache(model)
    keep: dict[str, Any] = {"logits_to_keep": 1} if accepts_logits_to_keep(model) else {}
    answers: list[list[int]] = [[] for _ in range(len(ids))]
    running = list(range(len(ids)))
    positions = positions_of(mask)
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **keep,
        ).logits[:, -1]
        tokens = logits.argmax(dim=-1)
        values = tokens.tolist()
        kept = [row for row, token in enumerate(values) if token not in stop]
        for row in kept:
            answers[running[row]].append(values[row])
        if reader and reader.endings:
            kept = [row for row in kept if not reader.is_ended(answers[running[row]])]
        if not kept:
            break
        positions = positions[:, -1:] + 1
        if len(kept) < len(running):
            rows = torch.tensor(kept, device=ids.device)
            cache.batch_select_indices(rows)  # type: ignore[union-attr]
            tokens, mask, positions = tokens[rows], mask[rows], positions[rows]
            running = [running[row] for row in kept]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return answers


def _generate(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    stop: Collection[int],
    pad_token_id: int,
    reader: AnswerReader | None,
) -> list[list[int]]:
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stop),
        pad_token_id=pad_token_id,
        use_cache=True,
    )
    generate: Any = model.generate
    # Asked for where the settings name texts that end an answer, refused elsewhere by some models.
    reading = {"tokenizer": reader.tokenizer} if reader and reader.endings else {}
    output = generate(input_ids=ids, attention_mask=mask, generation_config=settings, **reading)
    return [_until(row, stop) for row in output[:, ids.shape[1] :].tolist()]


def _until(ids: list[int], stop: Collection[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]


def _chooses_plainly(model: PreTrainedModel) -> bool:
    """Whether ``generate`` without sampling would take the arg max of the logits as they are."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return True
    return all(
        name.startswith("_")
        or name in _WITHOUT_EFFECT
        or value is None
        or value is False
        or value == _NEUTRAL.get(name)
        for name, value in settings.to_diff_dict().items()
    )
