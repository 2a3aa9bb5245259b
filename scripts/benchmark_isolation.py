"""What the isolation engine costs by itself, on tensors of a model's shapes, without training.

For each way of keeping importance: the time to take in a step's gradients, to write protected
weights back and to move the mask, the bytes that are kept, and the *floor*: the least bytes that
each of the two has to move, over the speed at which this machine copies memory.

    python scripts/benchmark_isolation.py --threads 2 --rounds 5
    python scripts/benchmark_isolation.py --threads 2 --training-steps 16

The shapes are those of SmolLM2-135M (134.5 million parameters). With ``--training-steps`` a model
of this architecture with random weights is trained instead, on 4 x 256 tokens a step, the engine at
work in every second step: neighbours in time stay comparable on a machine that others use too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import nn

from epi_bench.isolation import Isolation
from epi_bench.isolation.importance_modes import ImportanceMode
from epi_bench.isolation.normalisation import Normalisation

RATIO, INTERVAL = 0.5, 20
LEAD_IN = 4
"""Training steps that are not counted."""

NORMALISATIONS: tuple[Normalisation, ...] = ("mean", "min_max", "rank")
MODES: tuple[ImportanceMode, ...] = ("ema", "ema_bf16", "factored")


def smollm2_shapes() -> list[tuple[int, ...]]:
    """Of every parameter of SmolLM2-135M, the tied head counted once."""
    layer = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
    return [(49152, 576), *(shape for _ in range(30) for shape in [*layer, (576,), (576,)]), (576,)]


def parameters_of(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Random weights with random gradients whose sizes differ between tensors."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for number, shape in enumerate(shapes):
        parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        scale = math.exp(float(torch.randn((), generator=generator)))
        parameter.grad = (torch.randn(shape, generator=generator) * scale).to(dtype)
        made[f"model.layers.{number}.weight"] = parameter
    return made


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median time of some calls, after one that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return median(times)


def bytes_a_second(rounds: int) -> float:
    """At which this machine copies memory: reads and writes."""
    source, target = torch.randn(1 << 27), torch.empty(1 << 27)
    return 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), rounds)


def measure(shapes: list[tuple[int, ...]], dtype: torch.dtype, rounds: int) -> None:
    """Print all of it."""
    parameters = parameters_of(shapes, dtype)
    size = sum(parameter.numel() for parameter in parameters.values())
    speed = bytes_a_second(rounds)
    width = dtype.itemsize
    print(
        f"{size:,} parameters in {len(shapes)} tensors, {dtype}, ratio {RATIO}, "
        f"{torch.get_num_threads()} threads, memory copied at {speed / 2**30:.1f} GiB/s\n"
    )
    print(f"{'normalisation':14}{'refresh s':>12}{'asked':>14}{'protected':>14}")
    for kind in NORMALISATIONS:
        engine = Isolation(parameters.items(), ratio=RATIO, normalisation=kind)
        engine.observe(finite=True)
        spent = seconds(engine.refresh, rounds)
        print(f"{kind:14}{spent:12.3f}{engine.target_count:14,}{engine.protected_count:14,}")
    moved = {"ema": 8 + width, "ema_bf16": 4 + width, "factored": width}
    print(
        f"\n{'importance':12}{'observe ms':>12}{'floor ms':>10}{'write back ms':>15}"
        f"{'floor ms':>10}{'refresh ms / 20':>17}{'importance bytes':>18}{'all bytes':>14}"
    )
    for mode in MODES:
        engine = Isolation(parameters.items(), ratio=RATIO, normalisation="mean", importance=mode)
        observe = seconds(partial(engine.observe, finite=True), rounds)
        refresh = seconds(engine.refresh, rounds)
        restore = seconds(engine.restore, rounds)
        floors = [1000 * size * each / speed for each in (moved[mode], 3 * width + 1 / 8)]
        print(
            f"{mode:12}{1000 * observe:12.1f}{floors[0]:10.1f}{1000 * restore:15.1f}"
            f"{floors[1]:10.1f}{1000 * refresh / INTERVAL:17.1f}"
            f"{engine.importance.state_bytes():18,}{engine.state_bytes():14,}"
        )


def train(steps: int) -> None:
    """Print the time of training steps with the engine at work and without, taking turns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    engine = Isolation(model.named_parameters(), ratio=RATIO, normalisation="mean")
    tokens = torch.randint(model.config.vocab_size, (4, 256))
    times: dict[bool, list[float]] = {True: [], False: []}
    refreshes = []
    for step in range(LEAD_IN + 2 * steps):
        at_work = step % 2 == 0
        started = perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if at_work:
            engine.observe(finite=True)
        optimizer.step()
        if at_work:
            engine.restore()
        optimizer.zero_grad(set_to_none=True)
        if step >= LEAD_IN:
            times[at_work].append(perf_counter() - started)
        elif at_work:
            refreshes.append(seconds(engine.refresh, 1))
    plain, isolated = median(times[False]), median(times[True])
    refresh = median(refreshes) / INTERVAL
    print(
        f"step {plain:.3f} s; with the engine {isolated:.3f} s, and a refresh every {INTERVAL} "
        f"steps {refresh:.3f} s a step: +{100 * ((isolated + refresh) / plain - 1):.1f} %"
    )


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--training-steps", type=int, help="of each kind; trains a model instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.training_steps:
        train(arguments.training_steps)
        return
    measure(smollm2_shapes(), getattr(torch, arguments.dtype), arguments.rounds)


if __name__ == "__main__":
    main()
