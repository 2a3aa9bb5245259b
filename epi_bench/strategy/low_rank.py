"""Low-rank adapters on a model: made by peft, scored and saved as they are merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.strategy.strategy import Strategy

ALL_LINEAR = "all-linear"
"""What peft calls every linear layer but the output head."""

MERGE_TOLERANCE = 1e-4
"""Largest change of the logits by a merge, as a share of their norm; float32 gives 1e-6."""

MERGE_ROUNDINGS = 12
"""The same in roundings of weights of lower precision; bfloat16 gives one or two."""


class LowRankStrategy(Strategy):
    """Base of the strategies that train low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    Each adapted layer computes ``W x + (alpha / rank) B A x`` with ``W`` frozen. The adapter is
    merged into the weights at the end, and checked: the merged model is the trained one.

    Args:
        rank: Rank of the update, at least 1.
        alpha: Scale of the update.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: Names of the layers to adapt, or the ends of their paths, separated by
            commas; ``all-linear`` adapts every linear layer but the output head.
        learning_rate_factor: The run's learning rate is multiplied by it, above 0.
        config: Further settings of ``peft.LoraConfig``.

    Example:
        >>> class Narrow(LowRankStrategy):
        ...     def __init__(self, rank: int = 2) -> None:
        ...         super().__init__(rank, 4.0, 0.0, "q_proj,v_proj", 1.0)
        >>> Narrow().target_modules
        ('q_proj', 'v_proj')
    """

    family = "adapter"

    def __init__(
        self,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: str,
        learning_rate_factor: float,
        **config: Any,
    ) -> None:
        if rank < 1:
            raise UserError(f"{self.name}: rank={rank} must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"{self.name}: dropout={dropout} must lie in [0, 1)")
        if learning_rate_factor <= 0:
            raise UserError(
                f"{self.name}: learning_rate_factor={learning_rate_factor} must be above 0"
            )
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = tuple(
            name for name in (part.strip() for part in target_modules.split(",")) if name
        )
        if not self.target_modules:
            raise UserError(f"{self.name}: target_modules={target_modules!r} names no layer")
        self.learning_rate_factor = learning_rate_factor
        self._config = config

    def check_model(self, model: nn.Module) -> None:
        """Refuse names that fit no layer, and layers whose merge would change another one."""
        adapted = self._adapted(model)
        shared = _shared_weights(model)
        for name in sorted(adapted):
            if name in shared:
                raise UserError(
                    f"{self.name}: target_modules={','.join(self.target_modules)} adapts {name!r}, "
                    f"whose weights the model uses as {shared[name]!r} too (tied weights): merging "
                    f"would change both, so leave {_last_part(name)!r} out"
                )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; only the adapter stays trainable."""
        from peft import LoraConfig, get_peft_model

        self.check_model(model)
        asked = self._adapted(model)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=sorted(asked),
            task_type="CAUSAL_LM",
            **self._config,
        )
        wrapped: Any = get_peft_model(model, config)
        adapted = set(wrapped.base_model.targeted_module_names)
        if adapted != asked:
            raise TrainingFailedError(
                f"{self.name}: peft adapted other layers than asked for: {sorted(adapted ^ asked)}"
            )
        return wrapped

    @contextmanager
    def as_finished(self, model: nn.Module) -> Iterator[nn.Module]:
        """Merge the adapter for the time of scoring, where the merge is rounded.

        In a float32 model it changes no more than the last bits.
        """
        from peft.tuners.lora import LoraLayer

        adapted: list[Any] = [part for part in model.modules() if isinstance(part, LoraLayer)]
        rounded = [
            (layer, layer.get_base_layer().weight)
            for layer in adapted
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

    def finalize_model(self, model: Any) -> nn.Module:
        """Merge the adapter into the weights.

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
                f"{self.name}: merging the adapter changed the logits by {change:.2g} of their "
                f"norm, where rounding explains {allowed:.2g}: the merged model is not the trained "
                "one"
            )
        return merged

    @property
    def adapted_layers(self) -> dict[str, Any]:
        """The adapted layers of the model that is trained, by their path; ``LoraLayer`` of peft."""
        from peft.tuners.lora import LoraLayer

        modules = self.context.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, LoraLayer)}

    @torch.no_grad()
    def merge_and_restart(self, purpose: str) -> None:
        """Add the adapter to the weights, and begin a new one that changes nothing yet.

        Args:
            purpose: Names the draw of the new adapter's first values.
        """
        seed = self.context.torch_generator(purpose).initial_seed()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in self.adapted_layers.values():
                weight = layer.get_base_layer().weight
                (adapter,) = layer.active_adapters
                weight.copy_(weight.float() + layer.get_delta_weight(adapter).float())
                layer.reset_lora_parameters(adapter, True)

    def _adapted(self, model: nn.Module) -> set[str]:
        """Paths of the layers to adapt.

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
                raise UserError(f"{self.name}: the model has no linear layer that could be adapted")
            return found
        adapted: set[str] = set()
        for asked in self.target_modules:
            fitting = {n for n in layers if n == asked or n.endswith(f".{asked}")}
            if not fitting:
                raise UserError(f"{self.name}: {_no_layer(asked, layers)}")
            adapted |= fitting
        return adapted


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
