"""MIGU: train the rows whose outputs are large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from epi_bench import (
    Experience,
    PartialStep,
    Step,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    trained_parameters,
)


@register_strategy("migu")
class MIGU(Strategy):
    """Only the rows of linear layers with the largest outputs move.

    Magnitude-based updates (Du et al. 2024, arXiv 2406.17245), on the update not the gradient.

    For each linear layer ``h = W x`` and each optimizer step, ``a_i`` is the sum of ``|h_i|`` over
    the step's tokens, padding left out. From the second experience on, row ``i`` of ``W`` and its
    bias move only if ``a_i`` is at least the quantile ``threshold`` of the layer's ``a``; the
    others stay bit-identical. Other parameters move as in full fine-tuning. Costs a copy of the
    linear layers' weights during a step.

    The authors' code masks gradients, so that momentum and weight decay still move masked rows; it
    also sums over padding and never begins a new sum.

    Args:
        threshold: In [0, 1); 0 is full fine-tuning.
        output_head: Whether the layer that gives the logits is masked too.
    """

    family = "mask"
    needs = ("boundaries",)
    bytes_per_parameter = "0"
    trade_off = TradeOff("threshold", (0.3, 0.5, 0.7, 0.9))
    evidence = "Its authors report less forgetting over 15 classification tasks with T5."

    acts_from = 1
    changes_gradients = False
    not_in_state = ("_hooks",)

    def __init__(self, threshold: float = 0.7, output_head: bool = False) -> None:
        if not 0 <= threshold < 1:
            raise UserError(f"migu: threshold={threshold} must lie in [0, 1)")
        self.threshold = threshold
        self.output_head = output_head
        self._acts = False
        self._real: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._step: PartialStep | None = None
        self._hooks: list[RemovableHandle] = []

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Watch the outputs of the linear layers."""
        if self.threshold == 0:
            return model
        self._hooks = [
            model.register_forward_pre_hook(self._note_padding, with_kwargs=True),
            model.register_forward_hook(self._forget_padding),
        ]
        head = getattr(model, "get_output_embeddings", lambda: None)()
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
                continue  # a layer under an adapter is frozen, and the adapter's two are linear
            if self.output_head or module is not head:
                self._hooks.append(module.register_forward_hook(self._watch(name)))
        return model

    def begin_experience(self, experience: Experience) -> None:
        """Act from the second experience on."""
        self._acts = self.threshold > 0 and experience.index >= self.acts_from
        self._sums = {}

    def gradients_ready(self, step: Step) -> None:
        """Remember the watched layers' weights."""
        if not self._acts:
            return
        watched = {f"{name}.{part}" for name in self._sums for part in ("weight", "bias")}
        trained = trained_parameters(step.model)
        self._step = PartialStep({name: p for name, p in trained.items() if name in watched})
        self._step.take()

    def parameters_updated(self, step: Step) -> None:
        """Undo the step in the rows with small outputs."""
        if self._step is None:
            return
        moves = {}
        for name, parameter in self._step.parameters.items():
            sums = self._sums[name.rpartition(".")[0]]
            rows = sums >= torch.quantile(sums, self.threshold)
            moves[name] = rows.view(-1, *[1] * (parameter.dim() - 1))
        self._step.undo(moves)
        self._step, self._sums = None, {}

    def finalize_model(self, model: nn.Module) -> nn.Module:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
        return model

    def state_dict(self) -> dict[str, Tensor]:
        """Whether it acts; sums are of one step."""
        return {"acts": torch.tensor(self._acts)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        self._acts = bool(state["acts"])

    def state_bytes(self) -> int:
        """One number a row of each linear layer."""
        return sum(sums.nbytes for sums in self._sums.values())

    def _note_padding(self, module: nn.Module, arguments: Any, keywords: Any) -> None:
        self._real = keywords.get("attention_mask")

    def _forget_padding(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._real = None

    def _watch(self, name: str) -> Any:
        @torch.no_grad()
        def add(module: nn.Module, arguments: Any, output: Tensor) -> None:
            if not self._acts or not module.training:
                return
            sizes = output.detach().float().abs()
            if self._real is not None and self._real.shape == sizes.shape[:-1]:
                sizes = sizes * self._real.unsqueeze(-1)
            total = sizes.flatten(0, -2).sum(0)
            self._sums[name] = self._sums[name] + total if name in self._sums else total

        return add
