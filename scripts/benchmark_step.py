"""Time a training step of the loop against a bare PyTorch loop on the same batches.

Rounds are interleaved, so that a change in the machine's speed hits all contestants alike; what is
printed is the median over rounds of each contestant's time and of its ratio to the bare loop. The
bare loop pads a whole step to its longest example; the benchmark's loop cuts a step into
micro-batches where that saves more padding than it costs, so on a mixture it may be the faster one.

    python scripts/benchmark_step.py --strategies full_sft,epi --rounds 12 --steps 40
    python scripts/benchmark_step.py --tasks mini --rounds 12 --steps 40
"""

from __future__ import annotations

import argparse
import copy
import random
from itertools import islice
from statistics import median
from time import perf_counter

import torch
from torch import nn

from epi_bench.model.batching import (
    SPLIT_COST,
    collate,
    cut_by_padding,
    drawn_steps,
)
from epi_bench.model.load import Backbone, load_backbone
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.prepared import PreparedRun
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import RunSpec, TrainingSpec
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import create_strategy
from epi_bench.task.files.selection import select_tasks
from epi_bench.training.accelerator import create_accelerator
from epi_bench.training.loop import TrainingLoop
from epi_bench.training.optimizer import build_optimizer

STEPS_LOOKED_AT = 500
"""Steps over which padding is counted."""


def bare_loop(
    model: nn.Module, prepared: PreparedRun, experience: Experience, pad_token_id: int
) -> None:
    """What anybody would write: collate, forward, backward, clip, step."""
    spec = prepared.spec.training
    optimizer = build_optimizer(model.parameters(), spec, spec.learning_rate)
    steps = drawn_steps(len(experience.examples), spec.batch_size, random.Random(0))
    model.train()
    for _ in range(experience.steps):
        examples = [experience.examples[position] for position in next(steps)]
        batch = collate(examples, pad_token_id)
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), spec.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def strategy_loop(name: str, backbone: Backbone, prepared: PreparedRun) -> TrainingLoop:
    """The benchmark's own loop with a strategy, on a copy of the model."""
    return TrainingLoop(
        spec=prepared.spec.training,
        strategy=create_strategy(name, {}),
        model=copy.deepcopy(backbone.model),
        pad_token_id=int(backbone.tokenizer.pad_token_id),
        seed=0,
        accelerator=create_accelerator(prepared.spec.training, cpu=True),
        total_steps=1,
        experience_count=1,
    ).start()


def measure(spec: RunSpec, names: list[str], rounds: int, steps: int) -> None:
    """Print a table of step times."""
    torch.set_num_threads(spec.threads or torch.get_num_threads())
    prepared = prepare_run(spec)
    backbone = load_backbone(spec.model, prepared.location)
    examples = prepared.experiences[0].examples
    _tell_padding([len(example) for example in examples], spec.training)
    pad = int(backbone.tokenizer.pad_token_id)
    bare_model = copy.deepcopy(backbone.model)
    loops = {name: strategy_loop(name, backbone, prepared) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in ["bare", *names]}
    for turn in range(rounds + 1):
        experience = Experience(turn, "timing", ("timing",), examples, steps)
        for name in random.Random(turn).sample(["bare", *names], len(names) + 1):
            started = perf_counter()
            if name == "bare":
                bare_loop(bare_model, prepared, experience, pad)
            else:
                loops[name].train(experience)
            if turn:  # the first round warms up
                seconds[name].append((perf_counter() - started) / steps)
    print(f"{'loop':16}{'ms a step':>12}{'ratio to bare':>16}   (median of {rounds} rounds)")
    for name, times in seconds.items():
        ratios = [time / bare for time, bare in zip(times, seconds["bare"], strict=True)]
        print(f"{name:16}{1000 * median(times):12.2f}{median(ratios):16.3f}")


def _tell_padding(lengths: list[int], training: TrainingSpec) -> None:
    """How much of a step is padding, whole and cut into micro-batches."""
    size = training.examples_a_step()
    real = whole = cut = passes = 0
    for step in islice(drawn_steps(len(lengths), size, random.Random(0)), STEPS_LOOKED_AT):
        micro_batches = cut_by_padding(step, lengths, training.batch_size, SPLIT_COST)
        real += sum(lengths[p] for p in step)
        whole += len(step) * max(lengths[p] for p in step)
        cut += sum(len(part) * max(lengths[p] for p in part) for part in micro_batches)
        passes += len(micro_batches)
    print(
        f"padding: {100 * (whole / real - 1):.0f} % of the tokens in whole steps of {size}, "
        f"{100 * (cut / real - 1):.0f} % in {passes / STEPS_LOOKED_AT:.1f} micro-batches a step"
    )


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--strategies", default="full_sft,epi")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40, help="steps of a round")
    parser.add_argument("--tasks", default="mini_math", help="trained together; mini for all")
    arguments = parser.parse_args()
    tasks = select_tasks(arguments.tasks.split(",")).names
    spec = complete_spec({"data": {"tasks": tasks}, "stream": {"kind": "mixed"}})
    measure(spec, arguments.strategies.split(","), arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
