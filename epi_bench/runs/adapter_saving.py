"""Adapters as folders that can be loaded on the model that the run began with.

An adapter is a difference to the weights under it. Where a run has changed those too, the adapter
alone is of no use to anybody: PiSSA takes its first values out of the weights, and strategies of
several adapters merge one into them before they begin the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "adapter_config.json"
"""What peft writes and reads."""


class AdapterSaving:
    """Saves adapters so that they fit the model that was loaded.

    Args:
        model: As it was loaded, before an adapter is put on it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._loaded = _digests(model)
        self._begun = self._now = self._loaded
        self._first: dict[str, Tensor] = {}

    def begin(self, adapted: Any) -> None:
        """Take in the model with its adapter, before the first step.

        Args:
            adapted: A model of peft.
        """
        from peft import get_peft_model_state_dict

        self._begun = self._digests_of(adapted)
        if self._begun != self._loaded:
            state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
            self._first = {name: t.detach().cpu().clone() for name, t in state.items()}

    def look_at_base(self, adapted: Any) -> None:
        """Find out what the weights under the adapter are now; call it before each saving.

        Args:
            adapted: A model of peft, with its adapter not merged.
        """
        self._now = self._digests_of(adapted)

    def obstacle(self, adapted: Any) -> str | None:
        """Why the adapter cannot be saved by itself; ``None`` if it can.

        Args:
            adapted: A model of peft.
        """
        if self._now == self._loaded or (self._now == self._begun and _is_plain(adapted)):
            return None
        return "the weights under it are no longer those that were loaded"

    def save(self, adapted: Any, folder: Path) -> None:
        """Write the adapter.

        Where its first values were taken out of the weights, it becomes one of twice the rank, with
        ``B A - B0 A0``: what training has changed.

        Args:
            adapted: A model of peft without obstacle, in the precision in which it is saved; left
                as it is.
            folder: Where to.
        """
        adapted.save_pretrained(folder, save_embedding_layers=False)
        if self._now != self._loaded:
            _take_off_first_values(folder, self._first)

    def _digests_of(self, adapted: Any) -> dict[str, int]:
        found = _digests(adapted.get_base_model())
        return {name: found[name] for name in self._loaded if name in found}


def _digests(model: nn.Module) -> dict[str, int]:
    """The sum of each parameter's bits as integers, by the name that it has without an adapter.

    Read once at the speed of memory.
    """
    import torch

    from epi_bench.isolation.bit_mask import WORDS
    from epi_bench.isolation.protected_weights import flat_view
    from epi_bench.isolation.sharding import local

    found = {}
    for name, parameter in model.named_parameters():
        flat = flat_view(local(parameter))
        total = flat.view(WORDS[flat.element_size()]).sum(dtype=torch.int64)
        found[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = int(total)
    return found


def _is_plain(adapted: Any) -> bool:
    """Whether its adapter adds ``B A``, of one rank in all layers, and does nothing else."""
    settings = adapted.peft_config[adapted.active_adapter]
    return (
        getattr(settings, "peft_type", None) == "LORA"
        and not settings.use_dora
        and not settings.rank_pattern
        and not settings.alpha_pattern
        and settings.bias == "none"
    )


def _take_off_first_values(folder: Path, first: dict[str, Tensor]) -> None:
    """Turn the saved ``B A`` into ``[B, -B0] [A; A0]``, as peft's own conversion does.

    peft's adds a second adapter to the model for that, and draws random numbers.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS_FILE)
    for name, now in tensors.items():
        before = first[name].to(now.dtype)
        parts, side = ([now, before], 0) if "lora_A" in name else ([now, -before], 1)
        tensors[name] = torch.cat(parts, dim=side).contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    path = folder / SETTINGS_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["r"] *= 2
    # the scale stays: alpha / r, or alpha / sqrt(r)
    settings["lora_alpha"] *= 2**0.5 if settings["use_rslora"] else 2
    settings["init_lora_weights"] = True
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
