"""Choosing the top share of all scores, exactly, without sorting or concatenating them.

Non-negative floats order like their bit patterns read as integers. A small sample of the scores
tells a narrow bracket of such integers in which the threshold lies. One pass over all scores counts
those above the bracket exactly and collects the few inside it in a histogram with one bin for
every float, which gives the threshold itself, the number of scores above it and the number of its
ties. A second pass makes the masks. Should the sample mislead, the pass is repeated with wider
brackets: the result does not depend on it. Normalised scores are never stored: a bracket of
normalised scores is a bracket of each tensor's own scores (:meth:`Scaling.cuts`).

Scores that equal the threshold are taken in the order of the parameters until the asked number is
reached; a score of zero is never taken. Of tensors that are spread over processes, only counts and
histograms are exchanged, and the result is that of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epi_bench.isolation.keys import (
    BEYOND_INFINITY,
    at_least,
    count_and_extract,
    sort_keys,
)
from epi_bench.isolation.normalisation import Normalisation, Scaling, measure_scaling
from epi_bench.isolation.rank_shares import share_by_rank
from epi_bench.isolation.sharding import Processes

SAMPLE = 1 << 17
"""About how many scores the bracket is found with."""

SAMPLE_BITS = 14
"""Low bits of a key that the sample's histogram does not tell apart."""

MARGIN = 5.0
"""Standard deviations of the sample that the bracket reaches to either side."""

BINS = 1 << 12
"""Most bins of a histogram."""

KEPT = 1 << 24
"""Most keys of a bracket that are kept; more are looked for again."""

BATCH = 1 << 25
"""Elements of the tensors that are looked through before what was found is put together."""

Scores = Callable[[str], Tensor]
"""Gives the flat scores of a tensor by name: float32, not negative, not NaN."""

Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Threshold:
    """A score's key with how many scores lie above it and how many equal it.

    ``ties`` are the latter for each tensor of this process, if they were counted.
    """

    key: int
    above: int
    equal: int
    ties: Sequence[int] | None


def select(
    names: Sequence[str],
    scores: Scores,
    count: int,
    normalisation: Normalisation,
    largest: bool = True,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """Boolean masks of the ``count`` largest normalised scores over all tensors together.

    Args:
        names: Of the tensors, in the order in which ties are resolved.
        scores: Gives each tensor's flat scores; those of this process if they are spread.
        count: How many are taken in all; fewer only if fewer normalised scores are positive.
        normalisation: Within each tensor.
        largest: False takes the smallest, zeros first.
        processes: Over which the tensors are spread.

    Returns:
        For each name a flat mask.
    """
    processes = processes or Processes()
    if normalisation == "rank":
        return _select_by_rank(names, scores, count, largest, processes)
    scaling = measure_scaling(normalisation, names, scores, processes)
    return _Selection(names, scores, scaling, processes).take(count, largest)


def select_unscaled(names: Sequence[str], scores: Scores, count: int) -> dict[str, Tensor]:
    """Boolean masks of the ``count`` largest scores as they are, over all tensors together.

    Args:
        names: Of the tensors, in the order in which ties are resolved.
        scores: Gives each tensor's flat scores.
        count: How many are taken in all; fewer only if fewer scores are positive.
    """
    return _Selection(names, scores, Scaling.none(len(names)), Processes()).take(count, True)


def _select_by_rank(
    names: Sequence[str], scores: Scores, count: int, largest: bool, processes: Processes
) -> dict[str, Tensor]:
    def sizes_of(name: str) -> tuple[int, int]:
        tensor = scores(name)
        return tensor.numel(), int(tensor.count_nonzero()) if largest else tensor.numel()

    counted = processes.sum(torch.tensor([sizes_of(name) for name in names]))
    sizes = dict(zip(names, counted[:, 0].tolist(), strict=True))
    positive = dict(zip(names, counted[:, 1].tolist(), strict=True))
    counts = share_by_rank(sizes, positive, count)

    def take(name: str) -> Tensor:
        tensor = scores(name)
        one = _Selection([name], lambda _: tensor, Scaling.none(1), processes, threads=1)
        return one.take(counts[name], largest)[name]

    # collectives must come in the same order in every process, hence one thread then
    masks = _in_threads(take, names, 1 if processes.count > 1 else torch.get_num_threads())
    return dict(zip(names, masks, strict=True))


class _Selection:
    """One threshold for some tensors.

    Args:
        names: Of the tensors, in the order in which ties are resolved.
        scores: Gives each tensor's flat scores.
        scaling: Normalises them.
        processes: Over which the tensors are spread.
        threads: That work at a time; ``None`` takes torch's number.
    """

    def __init__(
        self,
        names: Sequence[str],
        scores: Scores,
        scaling: Scaling,
        processes: Processes,
        threads: int | None = None,
    ) -> None:
        self._names = names
        self._scores = scores
        self._scaling = scaling
        self._processes = processes
        self._threads = threads or torch.get_num_threads()
        self._own_sizes = [scores(name).numel() for name in names]
        self._size = int(processes.sum(torch.tensor(sum(self._own_sizes))))

    def take(self, count: int, largest: bool) -> dict[str, Tensor]:
        """Masks of the largest, or the smallest, normalised scores."""
        if count <= 0 or not self._size:
            return {
                name: torch.zeros_like(self._keys(name), dtype=torch.bool) for name in self._names
            }
        threshold = self._find(count if largest else self._size - count + 1)
        if largest and threshold.key == 0:  # fewer positive scores than asked for
            threshold = Threshold(1, threshold.above, 0, None)
        first, after = self._scaling.cuts(threshold.key), self._scaling.cuts(threshold.key + 1)
        if largest:
            masks = self._map(lambda i: at_least(self._keys(self._names[i]), int(first[i])))
            surplus = threshold.above + threshold.equal - count
        else:
            masks = self._map(lambda i: ~at_least(self._keys(self._names[i]), int(after[i])))
            surplus = self._size - threshold.above - count
        if surplus > 0 and threshold.equal:
            ties = self._ties(first, after) if threshold.ties is None else threshold.ties
            self._drop_last_ties(masks, first, after, ties, surplus)
        return dict(zip(self._names, masks, strict=True))

    def _keys(self, name: str) -> Tensor:
        return sort_keys(self._scores(name))

    def _map(self, work: Callable[[int], Done]) -> list[Done]:
        return _in_threads(work, range(len(self._names)), self._threads)

    def _find(self, wanted: int) -> Threshold:
        """The threshold that the ``wanted``-th largest normalised score makes, from 1."""
        low, high = self._sampled_bracket(wanted)
        above, inside = self._look(low, high)
        while True:
            shift = max((high - low - 1).bit_length() - BINS.bit_length() + 1, 0)
            counts = self._histogram(low, high, shift, inside)
            if not above < wanted <= above + int(counts.sum()):  # the sample misled
                low, high, above, inside = 0, BEYOND_INFINITY, 0, None
                continue
            from_top = counts.flip(0).cumsum(0)
            position = int(torch.searchsorted(from_top, torch.tensor(wanted - above)))
            bin_index = len(counts) - 1 - position
            above += int(from_top[position - 1]) if position else 0
            if shift == 0:
                key = low + bin_index
                ties = [int((keys == key).sum()) for keys in inside] if inside else None
                return Threshold(key, above, int(counts[bin_index]), ties)
            low += bin_index << shift
            high = min(low + (1 << shift), BEYOND_INFINITY)
            if inside:
                inside = [keys[(keys >= low) & (keys < high)] for keys in inside]

    def _sampled_bracket(self, wanted: int) -> tuple[int, int]:
        """Keys between which the ``wanted``-th largest lies, in all likelihood."""
        stride = self._size // SAMPLE | 1  # odd, so that no column of a matrix is left out
        sampled = [
            self._scaling.keys(i, sort_keys(self._scores(name)[::stride].contiguous()))
            for i, name in enumerate(self._names)
        ]
        together = torch.cat([keys.cpu() for keys in sampled]).clamp_(min=0)
        bins = (BEYOND_INFINITY >> SAMPLE_BITS) + 1
        counts = torch.bincount(together >> SAMPLE_BITS, minlength=bins)
        from_top = self._processes.sum(counts).flip(0).cumsum(0)
        size = int(from_top[-1])
        share = wanted / self._size
        margin = MARGIN * math.sqrt(share * (1 - share) * size) + MARGIN if stride > 1 else 1.0
        ends = torch.tensor([share * size - margin, share * size + margin], dtype=torch.float64)
        top, bottom = (bins - 1 - torch.searchsorted(from_top, ends).clamp_(max=bins - 1)).tolist()
        high = min((top + 1) << SAMPLE_BITS, BEYOND_INFINITY)
        return bottom << SAMPLE_BITS, high

    def _look(self, low: int, high: int) -> tuple[int, list[Tensor] | None]:
        """Number of normalised keys from ``high`` on, and those in [low, high) of each tensor.

        ``None`` instead of the latter where they are too many to be kept.
        """
        first, last = self._scaling.cuts(low), self._scaling.cuts(high)

        def look(tensor: int) -> tuple[int, Tensor]:
            keys = self._keys(self._names[tensor])
            found, inside = count_and_extract(keys, int(first[tensor]), int(last[tensor]))
            return found, self._scaling.keys(tensor, inside).clamp_(min=0).cpu()

        above, kept, size = 0, [], 0
        for batch in _batches(self._own_sizes, BATCH):
            for found, inside in _in_threads(look, batch, self._threads):
                above += found
                kept.append(inside)
                size += inside.numel()
        above, fits = self._processes.sum(torch.tensor([above, int(size <= KEPT)])).tolist()
        return above, kept if fits == self._processes.count else None

    def _histogram(self, low: int, high: int, shift: int, inside: list[Tensor] | None) -> Tensor:
        """Counts of the normalised keys in [low, high), which are ``inside`` if that is given."""
        bins = ((high - low - 1) >> shift) + 1
        if inside is not None:
            return self._processes.sum(_bincount(inside, low, shift, bins))
        first, last = self._scaling.cuts(low), self._scaling.cuts(high)

        def count(tensor: int) -> Tensor:
            keys = self._keys(self._names[tensor])
            found = count_and_extract(keys, int(first[tensor]), int(last[tensor]))[1]
            return _bincount([self._scaling.keys(tensor, found).clamp_(min=0)], low, shift, bins)

        counts = torch.zeros(bins, dtype=torch.int64)
        for batch in _batches(self._own_sizes, BATCH):
            for found in _in_threads(count, batch, self._threads):
                counts += found.cpu()
        return self._processes.sum(counts)

    def _drop_last_ties(
        self,
        masks: list[Tensor],
        first: NDArray[np.int64],
        after: NDArray[np.int64],
        ties: Sequence[int],
        surplus: int,
    ) -> None:
        """Take the last ``surplus`` ties out of the masks; ties have keys in [first, after)."""
        everywhere = self._processes.list(torch.tensor(ties))  # (processes, tensors)
        for tensor in reversed(range(len(self._names))):
            for process in reversed(range(self._processes.count)):
                dropped = min(surplus, int(everywhere[process, tensor]))
                surplus -= dropped
                if dropped and process == self._processes.rank:
                    keys = self._keys(self._names[tensor])
                    equal = (keys >= int(first[tensor])) & (keys < int(after[tensor]))
                    masks[tensor][equal.nonzero().squeeze(1)[-dropped:]] = False
            if surplus == 0:
                return

    def _ties(self, first: NDArray[np.int64], after: NDArray[np.int64]) -> list[int]:
        """How many keys of each tensor lie in [first, after)."""

        def ties(tensor: int) -> int:
            keys = self._keys(self._names[tensor])
            low, high = int(first[tensor]), int(after[tensor])
            return count_and_extract(keys, low, high)[1].numel() if low < high else 0

        return self._map(ties)


def _bincount(keys: Sequence[Tensor], low: int, shift: int, bins: int) -> Tensor:
    if not keys:
        return torch.zeros(bins, dtype=torch.int64)
    return torch.bincount((torch.cat(list(keys)) - low) >> shift, minlength=bins)


def _batches(sizes: Sequence[int], limit: int) -> Iterable[list[int]]:
    """Positions in their order, in batches of more than ``limit`` elements, but for the last."""
    batch: list[int] = []
    filled = 0
    for position, size in enumerate(sizes):
        batch.append(position)
        filled += size
        if filled > limit:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def _in_threads(work: Callable[[Job], Done], jobs: Iterable[Job], threads: int) -> list[Done]:
    """Results in the order of the jobs."""
    todo = list(jobs)
    if threads == 1 or len(todo) == 1:
        return [work(job) for job in todo]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, todo))
