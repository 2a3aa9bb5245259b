"""Where a parameter stands in a language model, told by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from epi_bench.errors import UserError


def block_number(name: str) -> int | None:
    """Number of the transformer block that a parameter belongs to, from 0 at the bottom.

    Blocks are numbered in parameter names, as in ``model.layers.3.mlp.up_proj.weight`` and
    ``transformer.h.3.attn.c_attn.weight``. The first number counts: experts are numbered within a
    block.

    Args:
        name: As ``named_parameters`` gives it.

    Returns:
        The number; ``None`` for embeddings, the output head and the last normalisation.

    Example:
        >>> block_number("model.layers.11.self_attn.q_proj.weight")
        11
        >>> block_number("model.embed_tokens.weight")
    """
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def block_matrices(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The weight matrices of the transformer blocks: attention and feed-forward.

    Without embeddings, output head, biases and normalisation weights.

    Args:
        parameters: By name.

    Example:
        >>> import torch
        >>> names = ("embed.weight", "layers.0.up.weight", "layers.0.norm.weight")
        >>> shapes = ((4, 2), (2, 2), (2,))
        >>> sizes = zip(names, shapes, strict=True)
        >>> list(block_matrices({name: nn.Parameter(torch.zeros(size)) for name, size in sizes}))
        ['layers.0.up.weight']
    """
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.dim() >= 2 and block_number(name) is not None
    }


def require_blocks(strategy: str, model: nn.Module) -> None:
    """Refuse a model in which no transformer block is numbered.

    Args:
        strategy: Name of the strategy that needs them, for the message.
        model: Any.

    Raises:
        UserError: If none of its trained matrices is in one.
    """
    if not block_matrices({n: p for n, p in model.named_parameters() if p.requires_grad}):
        raise UserError(
            f"{strategy} finds no numbered transformer blocks in this model: use another strategy, "
            "wise_ft for example"
        )


def frozen_share(model: nn.Module, names: Collection[str]) -> float:
    """How many of some weights are frozen now, as a share in [0, 1]; 0 of none.

    Args:
        model: Whose parameters are meant.
        names: Of the parameters that count: those that would be trained otherwise.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> _ = model.bias.requires_grad_(False)
        >>> frozen_share(model, ["weight", "bias"])
        0.25
    """
    counted = [p for name, p in model.named_parameters() if name in names]
    frozen = sum(parameter.numel() for parameter in counted if not parameter.requires_grad)
    return frozen / max(sum(parameter.numel() for parameter in counted), 1)


def block_count(names: Iterable[str]) -> int:
    """How many transformer blocks there are.

    Args:
        names: Of all parameters.

    Example:
        >>> block_count(["embed.weight", "layers.0.up.weight", "layers.11.up.weight"])
        12
    """
    return 1 + max(
        (number for name in names if (number := block_number(name)) is not None), default=-1
    )
