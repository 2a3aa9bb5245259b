"""Time a training step of the loop against a bare PyTorch loop on the same batches.

Rounds are interleaved, so that a change in the machine's speed hits all contestants alike; what is
printed is the median over rounds of each contestant's time and of its ratio to the bare loop.

    python scripts/benchmark_step.py --strategies full_sft,epi --rounds 12 --steps 40
"""

from __future__ import annotations

import argparse
import copy
import random
from statistics import median
from time import perf_counter

import torch
from torch import nn

from epi_bench.backbone import Backbone, load_backbone
from epi_bench.batching import collate, drawn_steps
from epi_bench.config import RunSpec, complete_spec
from epi_bench.optimization import build_optimizer
from epi_bench.preparation import PreparedRun, prepare_run
from epi_bench.strategy import Experience, create_strategy
from epi_bench.training import TrainingLoop, create_accelerator


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
    )


def measure(spec: RunSpec, names: list[str], rounds: int, steps: int) -> None:
    """Print a table of step times."""
    torch.set_num_threads(spec.threads or torch.get_num_threads())
    prepared = prepare_run(spec)
    backbone = load_backbone(spec.model, prepared.location)
    examples = prepared.experiences[0].examples
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


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--strategies", default="full_sft,epi")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40, help="steps of a round")
    arguments = parser.parse_args()
    spec = complete_spec({"data": {"tasks": ("mini_math",)}})
    measure(spec, arguments.strategies.split(","), arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
