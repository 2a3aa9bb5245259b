"""A low-rank adapter on a model: made by peft, scored and saved as it is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.strategy.adapted_weights import adapted_layers

ALL_LINEAR = "all-linear"
"""What peft calls every linear layer but the output head."""

MERGE_TOLERANCE = 1e-4
"""Largest change of the logits by a merge, as a share of their norm; float32 gives 1e-6."""

MERGE_ROUNDINGS = 12
"""The same in roundings of weights of lower precision; bfloat16 gives one or two."""


class LowRankAdapter:
    """Low-rank updates beside the weights of some layers (Hu et al. 2021, arXiv 2106.09685).

    Each adapted layer computes ``W x + (alpha / rank) B A x`` with ``W`` frozen; ``B`` begins with
    zeros. The adapter is merged into the weights at the end, and checked: the merged model is the
    trained one.

    Args:
        owner: What messages name first: a strategy, or the setting ``adapter``.
        rank: Rank of the update, at least 1.
        alpha: Scale of the update.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: Names of the layers to adapt, or the ends of their paths, separated by
            commas; ``all-linear`` adapts every linear layer but the output head.
        setting: Of the run, that an error of ``target_modules`` says to change.
        config: Further settings of ``peft.LoraConfig``.

    Attributes:
        target_modules: The names, apart.

    Raises:
        UserError: If a value is out of range.

    Example:
        >>> LowRankAdapter("adapter", 2, 4.0, 0.0, "q_proj, v_proj").target_modules
        ('q_proj', 'v_proj')
    """

    def __init__(
        self,
        owner: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: str,
        setting: str = "",
        **config: Any,
    ) -> None:
        if rank < 1:
            raise UserError(f"{owner}: rank={rank} must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"{owner}: dropout={dropout} must lie in [0, 1)")
        self.owner = owner
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = tuple(
            name for name in (part.strip() for part in target_modules.split(",")) if name
        )
        self._setting = setting or ()
        if not self.target_modules:
            raise self._refusal(f"target_modules={target_modules!r} names no layer")
        self._config = config

    def check(self, model: nn.Module) -> None:
        """Refuse names that fit no layer, and layers whose merge would change another one.

        Args:
            model: As it was loaded.

        Raises:
            UserError: With the name, and what to do.
        """
        adapted = self.layers_to_adapt(model)
        shared = _shared_weights(model)
        for name in sorted(adapted):
            if name in shared:
                raise self._refusal(
                    f"target_modules={','.join(self.target_modules)} adapts {name!r}, "
                    f"whose weights the model uses as {shared[name]!r} too (tied weights): merging "
                    f"would change both, so leave {_last_part(name)!r} out"
                )

    def wrap(
        self, model: nn.Module, make_config: Callable[[list[str]], Any] | None = None
    ) -> nn.Module:
        """Put the adapter on a model; only the adapter stays trainable.

        Args:
            model: As it was loaded. Its first values are drawn from torch's generator.
            make_config: Gives peft's configuration for the paths of the layers to adapt, in place
                of a ``LoraConfig`` of this adapter's settings.
        """
        from peft import get_peft_model

        self.check(model)
        asked = self.layers_to_adapt(model)
        config = (make_config or self._lora_config)(sorted(asked))
        wrapped: Any = get_peft_model(model, config)
        adapted = set(wrapped.base_model.targeted_module_names)
        if adapted != asked:
            raise TrainingFailedError(
                f"{self.owner}: peft adapted other layers than asked for: {sorted(adapted ^ asked)}"
            )
        return wrapped

    def _lora_config(self, layers: list[str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=layers,
            task_type="CAUSAL_LM",
            **self._config,
        )

    @contextmanager
    def as_merged(self, model: nn.Module) -> Iterator[nn.Module]:
        """Merge the adapter for the time of scoring, where the merge is rounded.

        In a float32 model it changes no more than the last bits.
        """
        rounded = [
            (layer, layer.get_base_layer().weight)
            for layer in adapted_layers(model).values()
            if layer.get_base_layer().weight.dtype != torch.float32
        ]
        before = [weight.data for _, weight in rounded]
        try:
            for layer, weight in rounded:
                weight.data = weight.data.clone()
                layer.merge()
            yield model
        finally:
            for (layer, weight), data in zip(rounded, before, strict=True):
                weight.data = data  # peft's unmerge() would subtract, and round again
                layer.merged_adapters.clear()

    def merge(self, model: Any) -> nn.Module:
        """Merge the adapter into the weights.

        Args:
            model: As :meth:`wrap` made it.

        Returns:
            The model without adapter.

        Raises:
            TrainingFailedError: If the merged model is not the trained one.
        """
        before = _probe_logits(model.get_base_model())
        merged: nn.Module = model.merge_and_unload()
        after = _probe_logits(merged)
        change = float((after - before).norm() / before.norm())
        rounding = max(torch.finfo(parameter.dtype).eps for parameter in merged.parameters())
        allowed = max(MERGE_TOLERANCE, MERGE_ROUNDINGS * rounding)
        if not change <= allowed:
            raise TrainingFailedError(
                f"{self.owner}: merging the adapter changed the logits by {change:.2g} of their "
                f"norm, where rounding explains {allowed:.2g}: the merged model is not the trained "
                "one"
            )
        return merged

    def layers_to_adapt(self, model: nn.Module) -> set[str]:
        """Paths of the layers that ``target_modules`` means in a model.

        Raises:
            UserError: If a name fits no layer that LoRA can adapt.
        """
        layers = {name: layer for name, layer in model.named_modules() if _adaptable(layer)}
        if self.target_modules == (ALL_LINEAR,):
            head = _output_head(model)
            found = {
                name
                for name, layer in layers.items()
                if layer is not head and not isinstance(layer, nn.Embedding)
            }
            if not found:
                raise self._refusal("the model has no linear layer that could be adapted")
            return found
        adapted: set[str] = set()
        for asked in self.target_modules:
            fitting = {n for n in layers if n == asked or n.endswith(f".{asked}")}
            if not fitting:
                raise self._refusal(_no_layer(asked, layers))
            adapted |= fitting
        return adapted

    def _refusal(self, reason: str) -> UserError:
        return UserError(f"{self.owner}: {reason}", setting=self._setting)


def _adaptable(layer: nn.Module) -> bool:
    """Whether it is a layer of the kinds that ``all-linear`` means, or an embedding."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, (nn.Linear, nn.Embedding, Conv1D))


def _output_head(model: Any) -> nn.Module | None:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _no_layer(asked: str, layers: Iterable[str]) -> str:
    names = sorted({_last_part(name) for name in layers} | {ALL_LINEAR})
    close = get_close_matches(asked, names, n=1, cutoff=0.5)
    if asked == ALL_LINEAR:
        remedy = f"{ALL_LINEAR} stands alone"
    elif close:
        remedy = f"did you mean {close[0]!r}?"
    else:
        remedy = f"choose from: {', '.join(names)}"
    return f"target_modules names {asked!r}, but the model has no such layer: {remedy}"


def _last_part(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _shared_weights(model: nn.Module) -> Mapping[str, str]:
    """Layers that share a parameter with another path of the model, and that path."""
    owners: dict[nn.Parameter, list[str]] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        for parameter in layer._parameters.values():
            if parameter is not None:
                owners.setdefault(parameter, []).append(path)
    return {
        path: next(other for other in paths if other != path)
        for paths in owners.values()
        if len(set(paths)) > 1
        for path in paths
    }


@torch.no_grad()
def _probe_logits(model: Any) -> torch.Tensor:
    """Logits of two short texts from all over the vocabulary."""
    was_training = model.training
    model.eval()
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, 16, dtype=torch.float64).long().reshape(2, 8)
    logits: torch.Tensor = model(input_ids=ids.to(next(model.parameters()).device)).logits
    model.train(was_training)
    return logits.cpu().double()
