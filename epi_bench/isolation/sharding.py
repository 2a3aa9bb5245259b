"""Parameters that are spread over processes: this process's part, and sums over all parts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; a tensor that is not spread, itself."""
    to_local = getattr(tensor, "to_local", None)
    part: Tensor = to_local() if to_local is not None else tensor
    return part


class Processes:
    """The processes over which parameters are spread; sums, extremes and lists over all of them.

    Without a group there is one process, and everything is returned as it is. All members must
    ask the same questions in the same order.

    Args:
        group: Their process group.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self._group = group
        self.count = distributed.get_world_size(group) if group is not None else 1
        self.rank = distributed.get_rank(group) if group is not None else 0

    def sum(self, values: Tensor) -> Tensor:
        """Element by element over all processes."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def minimum(self, values: Tensor) -> Tensor:
        """Element by element over all processes."""
        return self._reduce(values, distributed.ReduceOp.MIN)

    def maximum(self, values: Tensor) -> Tensor:
        """Element by element over all processes."""
        return self._reduce(values, distributed.ReduceOp.MAX)

    def list(self, values: Tensor) -> Tensor:
        """The values of every process, one row a process."""
        if self._group is None:
            return values.unsqueeze(0)
        here = values.to(self._device())
        rows = [torch.empty_like(here) for _ in range(self.count)]
        distributed.all_gather(rows, here, group=self._group)
        return torch.stack(rows).to(values.device)

    def _reduce(self, values: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
        if self._group is None:
            return values
        here = values.to(self._device(), copy=True)
        distributed.all_reduce(here, operation, group=self._group)
        return here.to(values.device)

    def _device(self) -> torch.device:
        """Where this group's collectives work."""
        backend = distributed.get_backend(self._group)
        return torch.device("cuda" if backend == "nccl" else "cpu")


def processes_of(tensors: Iterable[Tensor]) -> Processes:
    """The processes over which these tensors are sharded; one if none of them is.

    Raises:
        ValueError: If they are spread in more than one way.
    """
    groups = {}
    for tensor in tensors:
        mesh = getattr(tensor, "device_mesh", None)
        if mesh is None:
            continue
        placements = getattr(tensor, "placements", ())
        sharded = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
        for dim in sharded:
            group = mesh.get_group(dim)
            groups[group.group_name] = group
    if len(groups) > 1:
        raise ValueError("parameters sharded over more than one mesh dimension are not supported")
    return Processes(next(iter(groups.values()), None))
