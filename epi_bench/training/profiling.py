"""What each strategy costs on a given model and machine, against full fine-tuning.

Training steps on made-up batches of one length are timed in the benchmark's own loop. Strategies
take turns, in another order in each round, so that a change in the machine's speed hits all alike;
ratios are taken within a round; how far they spread from round to round is told too, and a
difference within that spread is none. Each turn starts from a fresh copy of the model and first
trains a short experience that is not timed, so that masks, anchors and memories are in force.
Isolation strategies get a warm-up of one step for the same reason.
"""

from __future__ import annotations

import copy
import gc
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.errors import TrainingFailedError, UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.spec.run_spec import TrainingSpec
    from epi_bench.strategy.hooks import Step
    from epi_bench.strategy.strategy import Strategy

BASELINE = "full_sft"
"""The strategy that all are compared with."""

LEAD_IN = 2
"""Steps of the experience that is not timed."""

RESET_PEAK = "5"
"""What makes Linux forget a process's largest resident set, written to ``clear_refs``."""


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        batch_size: Examples of a step.
        length: Tokens of each example.
        steps: Timed steps of a turn; a multiple of the refresh interval counts refreshes fairly.
        rounds: Turns of each strategy.
    """

    batch_size: int = 4
    length: int = 256
    steps: int = 20
    rounds: int = 3

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch_size * self.length


@dataclass
class Profile:
    """What a strategy costs.

    Attributes:
        strategy: Its label.
        seconds: Of a step, in each round.
        peak_memory_bytes: Largest in any round; ``None`` where the system does not tell.
        extra_state_bytes: What the strategy keeps beside model and optimizer.
        trainable_parameters: Parameters that get a gradient.
        error: Why it could not be measured.
    """

    strategy: str
    seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    extra_state_bytes: int = 0
    trainable_parameters: int = 0
    error: str | None = None

    def summary(self, baseline: Profile, tokens: int) -> dict[str, Any]:
        """Medians as JSON values.

        Args:
            baseline: The profile of full fine-tuning, of the same rounds.
            tokens: Of a step.
        """
        seconds = median(self.seconds) if self.seconds and not self.error else None
        pairs = zip(self.seconds, baseline.seconds, strict=False)
        ratios = [own / plain for own, plain in pairs] if seconds else []
        return {
            "strategy": self.strategy,
            "seconds_per_step": seconds,
            "ratio_to_full_sft": median(ratios) if ratios else None,
            "ratio_range": [min(ratios), max(ratios)] if ratios else None,
            "tokens_per_second": tokens / seconds if seconds else None,
            "peak_memory_bytes": self.peak_memory_bytes,
            "extra_state_bytes": self.extra_state_bytes,
            "trainable_parameters": self.trainable_parameters,
            "error": self.error,
        }


def profile_strategies(
    model: PreTrainedModel,
    strategies: Mapping[str, tuple[str, Mapping[str, Any]]],
    workload: Workload,
    training: TrainingSpec,
    cpu: bool = False,
) -> list[Profile]:
    """Measure strategies on a model; the first profile is that of full fine-tuning.

    A strategy that fails on this model has its error in its profile and does not stop the others.

    Args:
        model: On the CPU; it is not changed.
        strategies: Label -> name and options.
        workload: What is trained.
        training: Optimizer and precision.
        cpu: Stay on the CPU even if there is a GPU.

    Raises:
        UserError: For an unknown strategy or option.
    """
    from epi_bench.strategy.strategy import create_strategy

    contestants = {BASELINE: (BASELINE, {}), **strategies}
    for name, options in contestants.values():
        create_strategy(name, options)
    examples = _made_up_examples(model, workload)
    profiles = {label: Profile(label) for label in contestants}

    def take_turn(profile: Profile, label: str, workload: Workload) -> None:
        name, options = contestants[label]
        try:
            _take_turn(profile, name, options, model, examples, workload, training, cpu)
        except (UserError, TrainingFailedError, RuntimeError, ValueError) as error:
            profile.error = " ".join(f"{type(error).__name__}: {error}".split())[:200]

    # whoever comes first in a process pays for its memory and its libraries' first calls
    take_turn(Profile("not counted"), BASELINE, replace(workload, steps=1))
    for turn in range(workload.rounds):
        labels = random.Random(turn).sample(list(contestants), len(contestants))
        for label in labels:
            if not profiles[label].error:
                take_turn(profiles[label], label, workload)
    return list(profiles.values())


def _take_turn(
    profile: Profile,
    name: str,
    options: Mapping[str, Any],
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    workload: Workload,
    training: TrainingSpec,
    cpu: bool,
) -> None:
    """One turn of one strategy, added to its profile."""
    from epi_bench.strategy.hooks import Experience
    from epi_bench.training.accelerator import create_accelerator
    from epi_bench.training.loop import TrainingLoop

    strategy = _in_force_early(name, options)
    _forget_peak_memory()
    loop = TrainingLoop(
        spec=training,
        strategy=strategy,
        model=copy.deepcopy(model),
        pad_token_id=0,
        seed=0,
        accelerator=create_accelerator(
            training, cpu=cpu, dtype=str(model.dtype).removeprefix("torch.")
        ),
        total_steps=LEAD_IN + 1 + workload.steps,
        experience_count=2,
    )
    profile.trainable_parameters = sum(
        p.numel() for p in loop.model.parameters() if p.requires_grad
    )
    times: list[float] = []

    def on_step(step: Step, rate: float) -> None:
        times.append(perf_counter())

    loop.train(Experience(0, "lead-in", ("lead-in",), examples, LEAD_IN))
    loop.train(Experience(1, "timed", ("timed",), examples, 1 + workload.steps), on_step)
    profile.seconds.append((times[-1] - times[0]) / workload.steps)
    profile.extra_state_bytes = max(profile.extra_state_bytes, strategy.state_bytes())
    peak = _peak_memory(loop.accelerator.device, model)
    if peak is not None:
        profile.peak_memory_bytes = max(profile.peak_memory_bytes or 0, peak)


def _in_force_early(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy, with a warm-up of one step unless the user set another."""
    from epi_bench.plugins.options import options_of
    from epi_bench.strategy.strategy import STRATEGIES, create_strategy

    early = {"warmup": 1} if "warmup" in options_of(STRATEGIES.get(name)) else {}
    return create_strategy(name, {**early, **options})


def _made_up_examples(model: PreTrainedModel, workload: Workload) -> list[EncodedExample]:
    """Random tokens, all supervised; enough for two different batches."""
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.model.checks import embedding_rows, position_limit

    longest = position_limit(model.config)
    if longest is not None and workload.length > longest:
        raise UserError(
            f"examples of length={workload.length} are longer than the {longest} tokens that the "
            "model reads",
            setting="length",
        )
    generator = random.Random("made-up batches")
    vocabulary = embedding_rows(model)
    return [
        EncodedExample(
            tuple(generator.randrange(vocabulary) for _ in range(workload.length)),
            (True,) * workload.length,
        )
        for _ in range(2 * workload.batch_size)
    ]


def _forget_peak_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
        except OSError:
            return  # a sandbox may forbid it; the peak then is that of the whole process


def _peak_memory(device: torch.device, kept: PreTrainedModel) -> int | None:
    """Largest memory since it was forgotten, without the copy of the model that is kept."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            parameters = sum(p.numel() * p.element_size() for p in kept.parameters())
            return int(line.split()[1]) * 1024 - parameters
    return None
