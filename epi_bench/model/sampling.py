"""Texts that a model writes, token by token, each drawn from what it expects or the likeliest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BATCH = 16
"""Texts that are written at once; another number draws other texts."""


def sampled(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    longest: int,
    is_ended: Callable[[Sequence[int]], bool],
    generator: torch.Generator,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """How a model goes on from each prompt.

    Prompts of one length are continued together, so that nothing is padded and any model that reads
    text can write it.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids; none is empty.
        longest: Most tokens that are written after a prompt; fewer where the model reads fewer.
        is_ended: Whether what has been written after a prompt is complete; the tokens that tell
            are part of it.
        generator: Of the draws, on the CPU.
        temperature: What the logits are divided by; 0 takes the likeliest token.
        top_p: Each token is drawn from the likeliest ones that have this probability together, in
            (0, 1].

    Returns:
        The tokens written after each prompt, in the prompts' order.
    """
    from epi_bench.model.limits import position_limit

    config = getattr(model, "config", None)
    limit = None if config is None else position_limit(config)
    found: list[list[int]] = [[] for _ in prompts]
    lengths: dict[int, list[int]] = {}
    for position, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(position)
    for length, positions in sorted(lengths.items()):
        room = longest if limit is None else min(longest, limit - length)
        for first in range(0, len(positions), BATCH):
            batch = positions[first : first + BATCH]
            rows = [list(prompts[position]) for position in batch]
            write_on(model, rows, room, is_ended, generator, temperature=temperature, top_p=top_p)
            for position, row in zip(batch, rows, strict=True):
                found[position] = row[length:]
    return found


def write_on(
    model: Any,
    rows: list[list[int]],
    count: int,
    is_ended: Callable[[Sequence[int]], bool],
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> None:
    """Add tokens to texts of one length, at most so many to each.

    Texts that have ended are read on while others are written, but written no further.

    Args:
        model: A causal language model of transformers; its mode is restored afterwards.
        rows: The texts, changed in place.
        count: Most tokens to add.
        is_ended: Of the tokens that were added.
        generator: Of the draws, on the CPU.
        temperature: As for :func:`sampled`.
        top_p: The same.
    """
    import torch

    was_training = model.training
    model.eval()
    start = len(rows[0])
    ids = torch.tensor(rows, device=next(model.parameters()).device)
    ended = [False] * len(rows)
    cache = None
    with torch.no_grad():
        for _ in range(count):
            given = ids[:, -1:] if cache is not None else ids
            output = model(
                input_ids=given,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                use_cache=True,
            )
            cache = getattr(output, "past_key_values", None)
            drawn = _draw(output.logits[:, -1], temperature, top_p, generator)
            ids = torch.cat([ids, drawn[:, None].to(ids.device)], dim=1)
            for row, token in enumerate(drawn.tolist()):
                if not ended[row]:
                    rows[row].append(token)
                    ended[row] = is_ended(rows[row][start:])
            if all(ended):
                break
    model.train(was_training)


def check_drawing(name: str, temperature: float, top_p: float) -> None:
    """Refuse settings of a draw that are out of range.

    Args:
        name: Of what is set up, for the message.
        temperature: At least 0.
        top_p: In (0, 1].

    Raises:
        UserError: If one of them is.
    """
    if not temperature >= 0:
        raise UserError(f"{name}: temperature={temperature} must be at least 0")
    if not 0 < top_p <= 1:
        raise UserError(f"{name}: top_p={top_p} must lie in (0, 1]")


def _draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """A token for each row, on the CPU."""
    import torch

    if temperature == 0:
        return logits.float().argmax(-1).cpu()
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    probabilities = scaled.softmax(-1).cpu()
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered[before >= top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
