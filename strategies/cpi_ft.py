"""CPI-FT: fuse trial trainings of all tasks, then train them with the others' cores held."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epi_bench import (
    ChosenWeights,
    EncodedExample,
    Experience,
    TradeOff,
    UserError,
    probed_weights,
    register_strategy,
    spherical_interpolation,
    state_part,
    top_share,
)

Core = Mapping[str, Tensor]
"""For each parameter the positions of the core's weights in it, counted in order of memory."""


@register_strategy("cpi_ft")
class CoreParameterIsolation(ChosenWeights):
    """Holds the core of each task that is over, and begins from a fusion of all tasks' trials.

    Core parameter isolation fine-tuning (arXiv 2508.21741, EMNLP 2025). Sees all tasks before the
    first step, so it is **no continual learner**; its record says so.

    1. Trials: from the base model each experience is trained plainly, ``theta_i``.
    2. Cores: ``C_i`` is the ``share`` of all weights with the largest ``|theta_i - theta_0|``.
    3. Groups: experiences whose cores overlap, ``|C_i & C_j| / |C_i | C_j| >= overlap``, and those
       that are connected through others, are one group.
    4. Fusion: training begins with ``theta_i`` on the weights of core ``i`` (where cores overlap,
       of the experience that changed the weight most), and elsewhere with the trials' spherical
       mean, tensor by tensor: from the last experience's trial on, each further one with the weight
       that makes all of them count the same.
    5. Stages: an experience trains all weights but the cores of earlier experiences of other
       groups, which are bit-identical.

    The paper leaves open which trial the fusion begins with, what happens where cores overlap, and
    the order of the groups, which is the stream's here (``order = random`` draws one). Costs the
    trials, and five copies of the weights while they are fused.

    Args:
        share: Of all weights, that is an experience's core, in (0, 1).
        overlap: Share of two cores' union that they have in common, from which on their experiences
            are one group, in [0, 1]; 0 makes all one group, and holds nothing.
        probe: Steps of a trial as a share of the experience's, in (0, 1].
        stage_examples: Training examples of each experience that are trained, drawn at random; 0
            takes all.
    """

    needs = ("boundaries", "all tasks", "own loop")
    bytes_per_parameter = "0.375 + 4 * share * (3 * experiences - 2) + 8 / width"
    trade_off = TradeOff("share", (0.001, 0.005, 0.01, 0.05, 0.1))
    evidence = (
        "Its authors report a drop of 5.7 points over two tasks, where full fine-tuning in stages "
        "drops 16.2; it sees all tasks."
    )

    acts_from = 1
    refuses_adapter = (
        "averages the weights of several trainings, and the average of two adapters is not that of "
        "what they change"
    )

    def __init__(
        self,
        share: float = 0.01,
        overlap: float = 0.1,
        probe: float = 0.5,
        stage_examples: int = 0,
    ) -> None:
        if not 0 < share < 1:
            raise UserError(f"cpi_ft: share={share} must lie in (0, 1)")
        if not 0 <= overlap <= 1:
            raise UserError(f"cpi_ft: overlap={overlap} must lie in [0, 1]")
        if not 0 < probe <= 1:
            raise UserError(f"cpi_ft: probe={probe} must lie in (0, 1]")
        if stage_examples < 0:
            raise UserError(f"cpi_ft: stage_examples={stage_examples} must be at least 0")
        super().__init__()
        self.share = share
        self.overlap = overlap
        self.probe = probe
        self.stage_examples = stage_examples
        self._cores: list[Core] = []
        self._groups: list[int] = []
        self._largest_overlap = 0.0

    def begin_training(self) -> None:
        """Trials, cores, groups and fusion."""
        if self.context.experience_count < 2:
            return
        fusion = Fusion(self.isolation.parameters)
        stream = self.context.experiences
        found: dict[int, Core] = {}
        for experience in (stream[-1], *stream[:-1]):
            steps = max(round(self.probe * experience.steps), 1)
            purpose = f"trial of experience {experience.index}"
            probed = probed_weights(self.context, experience.examples, steps, purpose)
            found[experience.index] = fusion.add(probed, self.share)
        self._cores = [found[experience.index] for experience in stream]
        self._groups, self._largest_overlap = grouped(self._cores, self.overlap)
        fusion.write()

    def begin_experience(self, experience: Experience) -> None:
        """Hold the cores of earlier experiences of other groups."""
        if not self._cores:
            return
        own = dict(enumerate(self._groups)).get(experience.index)
        earlier = [
            core
            for core, group in zip(self._cores[: experience.index], self._groups, strict=False)
            if group != own
        ]
        held = {}
        for name, parameter in self.isolation.parameters.items():
            mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
            for core in earlier:
                mask[core[name].long()] = True
            held[name] = mask.view(parameter.shape)
        self.hold(held)

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """Its own, or a sample of them."""
        examples = experience.examples
        if not 0 < self.stage_examples < len(examples):
            return examples
        generator = self.context.generator(f"sample of experience {experience.index}")
        return generator.sample(list(examples), self.stage_examples)

    def diagnostics(self) -> dict[str, float]:
        """The mask's statistics, the number of groups, and the largest overlap of two cores."""
        found = super().diagnostics()
        if not found:
            return {}
        groups = float(len(set(self._groups)))
        return found | {"groups": groups, "largest_core_overlap": self._largest_overlap}

    def state_dict(self) -> dict[str, Tensor]:
        """The mask, the cores and their groups."""
        if not self._cores:
            return {}
        cores = {
            f"core.{number}.{name}": positions
            for number, core in enumerate(self._cores)
            for name, positions in core.items()
        }
        mask = {f"mask.{name}": tensor for name, tensor in super().state_dict().items()}
        numbers = {
            "groups": torch.tensor(self._groups),
            "overlap": torch.tensor(self._largest_overlap, dtype=torch.float64),
        }
        return {**mask, **cores, **numbers}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        if not state:
            return
        super().load_state_dict(state_part(state, "mask."))
        self._groups = state["groups"].tolist()
        self._largest_overlap = float(state["overlap"])
        self._cores = [
            {name: t.clone() for name, t in state_part(state, f"core.{number}.").items()}
            for number in range(len(self._groups))
        ]

    def state_bytes(self) -> int:
        """Bytes of the mask and the cores."""
        cores = sum(positions.nbytes for core in self._cores for positions in core.values())
        return super().state_bytes() + cores


class Fusion:
    """Step 4: the trials' weights become one model's.

    Args:
        parameters: Of the base model, by name; written at the end.
        smallest_angle: Below it two tensors count as parallel, in radians.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], smallest_angle: float = 1e-3
    ) -> None:
        self._parameters = parameters
        self._smallest_angle = smallest_angle
        self._count = 0
        self._mean: dict[str, Tensor] = {}
        self._core: dict[str, Tensor] = {}
        self._change: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, probed: Mapping[str, Tensor], share: float) -> Core:
        """Take the weights after a trial.

        Args:
            probed: By name.
            share: Of all weights, that are its core.

        Returns:
            The core.
        """
        changes = {
            name: (probed[name].float() - p.detach().float()).abs()
            for name, p in self._parameters.items()
        }
        size = sum(change.numel() for change in changes.values())
        masks = top_share(changes, math.floor(share * size + 1e-9) / size)
        self._count += 1
        for name, change in changes.items():
            weights, mask = probed[name].float(), masks[name]
            if self._count == 1:
                self._mean[name] = weights
                self._core[name] = torch.zeros_like(weights)
                self._change[name] = torch.zeros_like(weights)
            else:
                self._mean[name] = spherical_interpolation(
                    self._mean[name], weights, 1 / self._count, self._smallest_angle
                )
            wins = mask & (change > self._change[name])
            self._core[name] = torch.where(wins, weights, self._core[name])
            self._change[name] = torch.where(wins, change, self._change[name])
        return {
            name: mask.flatten().nonzero().flatten().to(torch.int32) for name, mask in masks.items()
        }

    @torch.no_grad()
    def write(self) -> None:
        """Give the model the fused weights."""
        for name, parameter in self._parameters.items():
            is_core = self._change[name] > 0
            parameter.copy_(torch.where(is_core, self._core[name], self._mean[name]))


def grouped(cores: Sequence[Core], overlap: float) -> tuple[list[int], float]:
    """Step 3: the group of each core, numbered in the order in which they come, and the largest
    overlap of two cores.

    >>> cores = [{"w": torch.tensor([0, 2])}, {"w": torch.tensor([0, 3])}]
    >>> groups, largest = grouped(cores, 1 / 3)
    >>> groups, round(largest, 3)
    ([0, 0], 0.333)
    >>> grouped(cores, 0.5)[0]
    [0, 1]

    Args:
        cores: Of the experiences.
        overlap: Share of their union from which on two of them are one group, in [0, 1].
    """
    groups, largest = list(range(len(cores))), 0.0
    for second in range(len(cores)):
        for first in range(second):
            common = jaccard(cores[first], cores[second])
            largest = max(largest, common)
            if common >= overlap:
                old, new = groups[second], groups[first]
                groups = [new if group == old else group for group in groups]
    order = list(dict.fromkeys(groups))
    return [order.index(group) for group in groups], largest


def jaccard(first: Core, second: Core) -> float:
    """Positions that two cores have in common, as a share of those of either."""
    common = sum(int(torch.isin(first[name], second[name]).sum()) for name in first)
    sizes = sum(len(core[name]) for core in (first, second) for name in first)
    return common / (sizes - common) if sizes else 0.0
