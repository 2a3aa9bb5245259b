"""Going on with what was measured: on a changed set of parameters, and only on the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from epi_bench.errors import UserError
from epi_bench.isolation import Isolation
from epi_bench.isolation.bit_mask import WORDS
from epi_bench.isolation.protected_weights import flat_view
from epi_bench.isolation.sharding import local


def carry_over(earlier: Isolation, later: Isolation) -> None:
    """Go on with what was measured before, for parameters that kept their shape.

    What is new starts unmeasured and unprotected.

    Args:
        earlier: Of the parameters before.
        later: Of the parameters now, still fresh.
    """
    old, state = earlier.state_dict(), later.state_dict()
    before, now = earlier.parameters, later.parameters
    changed = {n for n in now if n not in before or before[n].shape != now[n].shape}

    def owner(key: str) -> str:
        return key.partition(".")[2].partition("#")[0]

    for key in state:
        if key in old and owner(key) not in changed:
            state[key] = old[key]
    for mask in ("history.first.", "history.last."):
        if any(key.startswith(mask) for key in old):
            # What is new was not protected: its mask is the empty one of the fresh protection.
            for name in now:
                state[mask + name] = state[f"mask.{name}"] if name in changed else old[mask + name]
    later.load_state_dict(state)


@torch.no_grad()
def weight_checksums(isolation: Isolation) -> Tensor:
    """For each trained parameter, or this process's part of it, the sum of its bits as integers.

    Read once at the speed of memory, independent of device and memory format.
    """
    sums = []
    for parameter in isolation.parameters.values():
        flat = flat_view(local(parameter))
        sums.append(flat.view(WORDS[flat.element_size()]).sum(dtype=torch.int64))
    return torch.stack([total.cpu() for total in sums])


def check_weights(isolation: Isolation, state: Mapping[str, Tensor], key: str) -> None:
    """Refuse a state that was saved beside other weights than those the model holds.

    States of earlier versions hold no checksums and are taken as they are.

    Args:
        isolation: Of the parameters now.
        state: What is to be taken up, of the same parameters.
        key: Of the checksums in it.

    Raises:
        UserError: If the weights differ; the first parameter that does is named.
    """
    if key not in state:
        return
    now, saved = weight_checksums(isolation), state[key]
    differ = (now != saved).nonzero()
    if len(differ):
        name = list(isolation.parameters)[int(differ[0])]
        raise UserError(
            f"the saved protection belongs to other weights than the model holds ({len(differ)} of "
            f"{len(now)} parameters differ, the first is {name!r}): load the weights that were "
            "saved with it first, in their type"
        )
