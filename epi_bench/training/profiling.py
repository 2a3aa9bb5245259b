"""What each strategy costs on a given model and machine, against full fine-tuning.

Training steps on synthetic batches of one length are timed in the benchmark's own loop. Strategies
take turns, in another order in each round, so that a change in the machine's speed hits all alike;
ratios are taken within a round. How far they spread from round to round is reported too; a
difference within that spread means nothing. Each turn starts from a fresh copy of the model and
first trains a short experience that is not timed, so that masks, anchors and memories are in force.
Isolation strategies get a warm-up of one step for the same reason.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.errors import TrainingFailedError, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.spec.run_spec import TrainingSpec
    from epi_bench.strategy.hooks import Experience, Step
    from epi_bench.strategy.strategy import Strategy
    from epi_bench.training.loop import TrainingLoop

BASELINE = "full_sft"
"""The strategy that all are compared with."""

LEAD_IN = 2
"""Steps of the experience that is not timed."""


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
        peak_memory_bytes: Largest in any round, without the copy of the model that turns start
            from; ``None`` where the system cannot say it for one turn alone.
        extra_state_bytes: What the strategy keeps beside model and optimizer.
        trainable_parameters: Parameters that get a gradient at a time.
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
    bench = _Bench(model, _synthetic_examples(model, workload), training, cpu)
    # whoever comes first in a process pays for its memory and its libraries' first calls
    bench.take_turn(Profile("not counted"), BASELINE, {}, steps=1)
    profiles = {label: Profile(label) for label in contestants}
    for turn in range(workload.rounds):
        for label in random.Random(turn).sample(list(contestants), len(contestants)):
            if not profiles[label].error:
                bench.take_turn(profiles[label], *contestants[label], steps=workload.steps)
    return list(profiles.values())


@dataclass(frozen=True)
class _Bench:
    """What every turn starts from: the model on the CPU, the examples, how they are trained."""

    model: PreTrainedModel
    examples: Sequence[EncodedExample]
    training: TrainingSpec
    cpu: bool

    def take_turn(
        self, profile: Profile, name: str, options: Mapping[str, Any], steps: int
    ) -> None:
        """One turn of a strategy, added to its profile; a failure is noted there."""
        try:
            self._measure(profile, _in_force_early(name, options), steps)
        except (UserError, TrainingFailedError, RuntimeError, ValueError) as error:
            profile.error = " ".join(f"{type(error).__name__}: {error}".split())[:200]

    def _measure(self, profile: Profile, strategy: Strategy, steps: int) -> None:
        from epi_bench.results.record.memory import forget_peak_memory, peak_memory_bytes
        from epi_bench.training.accelerator import create_accelerator

        dtype = str(self.model.dtype).removeprefix("torch.")
        accelerator = create_accelerator(self.training, cpu=self.cpu, dtype=dtype)
        device = str(accelerator.device)
        is_peak_known = forget_peak_memory(device)
        loop = self._start_loop(strategy, accelerator, steps)
        profile.seconds.append(self._seconds_of_a_step(loop, steps))
        profile.trainable_parameters = loop.cost.trained_parameters
        profile.extra_state_bytes = max(profile.extra_state_bytes, strategy.state_bytes())
        if is_peak_known:
            kept = _bytes_of(self.model) if accelerator.device.type == "cpu" else 0
            peak = peak_memory_bytes(device) - kept
            profile.peak_memory_bytes = max(profile.peak_memory_bytes or 0, peak)

    def _start_loop(self, strategy: Strategy, accelerator: Accelerator, steps: int) -> TrainingLoop:
        from epi_bench.training.loop import TrainingLoop

        return TrainingLoop(
            spec=self.training,
            strategy=strategy,
            model=copy.deepcopy(self.model),
            pad_token_id=0,
            seed=0,
            accelerator=accelerator,
            total_steps=LEAD_IN + 1 + steps,
            experience_count=2,
            stream=self._stream(steps),
        ).start()

    def _seconds_of_a_step(self, loop: TrainingLoop, steps: int) -> float:
        """Mean over the timed steps; those of the lead-in and the first one are not."""
        times: list[float] = []

        def on_step(step: Step, rate: float) -> None:
            times.append(perf_counter())

        lead_in, timed = self._stream(steps)
        loop.train(lead_in)
        loop.train(timed, on_step)
        if len(times) < 2:
            raise TrainingFailedError("it ends the experience with its first step")
        return (times[-1] - times[0]) / (len(times) - 1)

    def _stream(self, steps: int) -> tuple[Experience, Experience]:
        from epi_bench.strategy.hooks import Experience

        return (
            Experience(0, "lead-in", ("lead-in",), self.examples, LEAD_IN),
            Experience(1, "timed", ("timed",), self.examples, 1 + steps),
        )


def _bytes_of(model: PreTrainedModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _in_force_early(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy, with a warm-up of one step unless the user set another."""
    from epi_bench.plugins.options import options_of
    from epi_bench.strategy.strategy import STRATEGIES, create_strategy

    early = {"warmup": 1} if "warmup" in options_of(STRATEGIES.get(name)) else {}
    return create_strategy(name, {**early, **options})


def _synthetic_examples(model: PreTrainedModel, workload: Workload) -> list[EncodedExample]:
    """Random tokens, all supervised; enough for two different batches."""
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.model.limits import embedding_rows, position_limit

    longest = position_limit(model.config)
    if longest is not None and workload.length > longest:
        raise UserError(
            f"examples of length={workload.length} are longer than the {longest} tokens that the "
            "model reads",
            setting="length",
        )
    generator = random.Random("synthetic batches")
    vocabulary = embedding_rows(model)
    return [
        EncodedExample(
            tuple(generator.randrange(vocabulary) for _ in range(workload.length)),
            (True,) * workload.length,
        )
        for _ in range(2 * workload.batch_size)
    ]
