"""Measure speed, memory and exactness on one machine in one go, a CUDA machine above all.

Training steps of the benchmark's loop (``full_sft`` and ``epi``) against a bare PyTorch loop and
against transformers' Trainer on the same batches; what each way of keeping importance costs in
time and in memory, beside the most that the docs' formula allows; the same for each way of keeping
weights (float32, bfloat16 with float32 masters, stochastic rounding); a refresh of the mask;
evaluation; and whether a GPU chooses the masks that a CPU chooses. Needs no network and no files:
the model has the shapes of SmolLM2-135M and random weights.

    python scripts/gpu_check.py --out results                 # on a GPU
    python scripts/gpu_check.py --out results --small --cpu   # seconds, to see that it works

Contestants take turns (A B A B ...), each timed between two synchronisations. Prints a table and
writes ``gpu_check.json``, again after each measurement, so that a run that is cut short leaves what
it had found.

A machine without a network lacks packages as a rule. Those that this script needs beside torch,
transformers and accelerate are pydantic, tomli-w and platformdirs:

    pip download -d wheels --only-binary :all: pydantic tomli-w platformdirs
    python scripts/gpu_check.py --wheels wheels --out results
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gpu_workload import (
    RATIO,
    SEED,
    SMALL,
    Contestants,
    Size,
    make_examples,
    make_experience,
    make_loop,
    make_model,
    make_strategy,
    training_spec,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

NORMALISATIONS = ("mean", "min_max", "rank")


@dataclass
class Row:
    """One measurement.

    Attributes:
        group: What it belongs to.
        name: What was measured.
        value: In ``unit``; ``None`` where it could not be measured.
        unit: Of the value.
        ratio: To the first of its kind (times), or for each weight (bytes).
        note: What else is to know.
    """

    group: str
    name: str
    value: float | None
    unit: str
    ratio: float | None = None
    note: str = ""


@dataclass
class Report:
    """All rows, printed and written as they come."""

    folder: Path
    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        """Print rows and write the file anew."""
        for row in rows:
            value = "-" if row.value is None else f"{row.value:,.4g}"
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            print(
                f"{row.group:14}{row.name:34}{value:>12} {row.unit:14}{ratio:>8}  {row.note}",
                flush=True,
            )
        self.rows.extend(rows)
        content = {**self.facts, "rows": [asdict(row) for row in self.rows]}
        target = self.folder / "gpu_check.json"
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ---- measurements -------------------------------------------------------------------------------


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, all kernels included."""
    _synchronize(device)
    started = perf_counter()
    work()
    _synchronize(device)
    return perf_counter() - started


def measure_steps(report: Report, size: Size, device: torch.device, cpu: bool) -> None:
    """Step time of bare loop, Trainer, ``full_sft`` and ``epi``, and whether they agree."""
    contestants = Contestants(size, device, cpu)
    names = contestants.names()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(size.rounds + 1):
        for name in random.Random(turn).sample(names, len(names)):
            spent = timed(partial(contestants.take_turn, name, turn), device)
            if turn:  # the first round warms up
                seconds[name].append(spent / size.steps)
        if turn == 0:
            bare = contestants.models["bare"]
            for name in ("trainer", "full_sft"):
                apart = largest_difference(bare, contestants.models[name])
                note = f"largest difference of a weight after {size.steps} steps"
                report.add(Row("agreement", f"bare and {name}", apart, "", note=note))
    for name in names:
        report.add(
            Row("step", name, 1000 * median(seconds[name]), "ms", _ratio(seconds, name, "bare"))
        )


@dataclass(frozen=True)
class Variant:
    """A strategy with its settings, and the most bytes a weight that the docs allow it to keep."""

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bytes_a_weight: float = 0.0
    dtype: str = "float32"
    master_weights: str = "float32"


def importance_variants() -> dict[str, Variant]:
    """Every way of keeping importance, with its bytes.

    Beside the importance come the saved values, and one bit for each of up to five masks.
    """
    saved = 4 + 5 / 8
    return {
        "full_sft": Variant("full_sft"),
        "ema": Variant("epi", {"importance": "ema"}, 4 + saved),
        "ema, offload": Variant("epi", {"importance": "ema", "offload": True}, 4 + saved),
        "ema_bf16": Variant("epi", {"importance": "ema_bf16"}, 2 + saved),
        "factored": Variant("epi", {"importance": "factored"}, 0.5 + saved),
        "optimizer": Variant("epi", {"importance": "optimizer"}, saved),
    }


def weight_variants() -> dict[str, Variant]:
    """Every way of keeping trained weights."""
    return {
        f"{strategy}, {name}": Variant(strategy, {}, 8 + 5 / 8, dtype, master)
        for strategy in ("full_sft", "epi")
        for name, dtype, master in (
            ("float32", "float32", "float32"),
            ("bfloat16, float32 masters", "bfloat16", "float32"),
            ("bfloat16, stochastic rounding", "bfloat16", "none"),
        )
    }


def measure_variants(
    report: Report,
    group: str,
    variants: Mapping[str, Variant],
    size: Size,
    device: torch.device,
    cpu: bool,
) -> None:
    """Step time and memory of variants that take turns; the first is what ratios refer to."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    memory: dict[str, list[Row]] = {}
    for turn in range(size.rounds + 1):
        for name in random.Random(turn).sample(list(variants), len(variants)):
            spent, rows = _train_variant(group, name, variants[name], size, device, cpu)
            memory[name] = rows
            if turn:  # the first round warms up
                seconds[name].append(spent)
    first = next(iter(variants))
    for name, times in seconds.items():
        ratio = _ratio(seconds, name, first)
        report.add(Row(group, f"{name}: step", 1000 * median(times), "ms", ratio), *memory[name])


def _train_variant(
    group: str, name: str, variant: Variant, size: Size, device: torch.device, cpu: bool
) -> tuple[float, list[Row]]:
    """Seconds a step of one turn, and rows about its memory."""
    import torch

    strategy = make_strategy(variant.strategy, variant.options)
    model = make_model(size, device, getattr(torch, variant.dtype))
    weights = sum(p.numel() for p in model.parameters())
    examples = make_examples(size, size.batch * size.steps)
    _forget_peak(device)
    loop = make_loop(
        size, strategy, model, training_spec(size, master_weights=variant.master_weights), cpu
    )
    loop.train(make_experience(0, examples, 2))
    work = make_experience(1, examples, size.steps)
    seconds = timed(lambda: loop.train(work), device) / size.steps
    peak, kept = _peak(device), strategy.state_bytes()
    most = round(variant.bytes_a_weight * weights)
    return seconds, [
        Row(group, f"{name}: peak", peak, "bytes", peak / weights if peak else None, "a weight"),
        Row(group, f"{name}: kept", kept, "bytes", kept / weights, f"a weight; at most {most:,}"),
    ]


def measure_refresh(report: Report, size: Size, device: torch.device) -> None:
    """Seconds of moving the mask."""
    from epi_bench.isolation import Isolation

    model = make_model(size, device)
    _random_gradients(model)
    for kind in NORMALISATIONS:
        engine = Isolation(model.named_parameters(), ratio=RATIO, normalisation=kind)  # type: ignore[arg-type]
        engine.observe(finite=True)
        engine.refresh()
        spent = median(timed(engine.refresh, device) for _ in range(size.rounds))
        exact = f"{engine.protected_count:,} of {engine.target_count:,} protected"
        report.add(Row("refresh", kind, 1000 * spent, "ms", note=exact))


def measure_evaluation(report: Report, size: Size, device: torch.device) -> None:
    """Speed of answers against transformers' ``generate``, and of teacher forcing."""
    import torch

    from epi_bench.evaluation.generation import generate_greedily
    from epi_bench.model.batching import collate
    from epi_bench.model.losses import summed_loss

    model = make_model(size, device).eval()
    model.generation_config.eos_token_id = None
    draws = random.Random("prompts")
    prompts = [
        [draws.randrange(size.vocabulary) for _ in range(size.length // 2)]
        for _ in range(size.answers)
    ]
    tokens = size.answers * size.new_tokens
    ids = torch.tensor(prompts, device=device)

    def ours() -> object:
        return generate_greedily(
            model,
            prompts,
            max_new_tokens=size.new_tokens,
            stop=(),
            pad_token_id=0,
            batch_size=size.answers,
        )

    def theirs() -> object:
        with torch.no_grad():
            return model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=size.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )

    for name, work in (("generate of transformers", theirs), ("generate_greedily", ours)):
        work()
        report.add(Row("evaluation", name, tokens / timed(work, device), "tokens/s"))
    batch = collate(make_examples(size, size.batch), 0, device)
    forced = int(batch["attention_mask"].sum())

    def force() -> None:
        with torch.no_grad():
            summed_loss(model, batch)

    force()
    report.add(Row("evaluation", "teacher forcing", forced / timed(force, device), "tokens/s"))


def compare_masks(report: Report, size: Size, device: torch.device) -> None:
    """Whether the device chooses the masks of the CPU, given the same gradients."""
    import torch

    from epi_bench.isolation import Isolation

    for mode in ("ema", "factored"):
        for kind in NORMALISATIONS:
            masks = []
            for place in (torch.device("cpu"), device):
                model = make_model(size, torch.device("cpu"))
                _random_gradients(model)
                model = _moved(model, place)
                engine = Isolation(
                    model.named_parameters(),
                    ratio=RATIO,
                    normalisation=kind,  # type: ignore[arg-type]
                    importance=mode,
                )
                engine.observe(finite=True)
                engine.refresh()
                masks.append(torch.cat([mask.cpu() for mask in engine.masks.values()]))
            other = int((masks[0] != masks[1]).sum())
            note = f"of {masks[0].numel():,} weights"
            report.add(Row("masks", f"{mode}, {kind}: differ", other, "weights", note=note))


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Between the weights of two models."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def _random_gradients(model: nn.Module) -> None:
    """The same on every device, of other size in each tensor."""
    import torch

    draws = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        scale = float(torch.rand((), generator=draws)) + 0.1
        gradient = torch.randn(parameter.shape, generator=draws) * scale
        parameter.grad = gradient.to(parameter.device)


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    """A model on a device, its gradients with it."""
    gradients = [p.grad for p in model.parameters()]
    moved = model.to(device)
    for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.to(device)
    return moved


def _ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    return median(own / plain for own, plain in zip(seconds[name], seconds[base], strict=True))


def _synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    import torch

    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


# ---- the machine --------------------------------------------------------------------------------


def use_wheels(folder: Path) -> None:
    """Make packages importable that lie as wheels in a folder, compiled ones too."""
    unpacked = Path(tempfile.mkdtemp(prefix="gpu_check_wheels_"))
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    sys.path.append(str(unpacked))


def facts_of(device: torch.device, size: Size) -> dict[str, Any]:
    """Which machine and which versions."""
    import torch
    import transformers

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": device.type,
        "card": card,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "size": asdict(size),
    }


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_check.json")
    parser.add_argument("--small", action="store_true", help="a model of seconds")
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of missing packages")
    parser.add_argument("--rounds", type=int, help="turns of each contestant")
    arguments = parser.parse_args()
    if arguments.wheels:
        use_wheels(arguments.wheels)
    import torch

    size = SMALL if arguments.small else Size()
    if arguments.rounds:
        size = Size(**{**asdict(size), "rounds": arguments.rounds})
    if not arguments.cpu and not torch.cuda.is_available():
        parser.error("there is no GPU here: give --cpu, and --small unless you have time")
    device = torch.device("cpu" if arguments.cpu else "cuda")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report(arguments.out, facts_of(device, size))
    print(json.dumps(report.facts))
    measure_steps(report, size, device, arguments.cpu)
    measure_variants(report, "importance", importance_variants(), size, device, arguments.cpu)
    measure_variants(report, "weights", weight_variants(), size, device, arguments.cpu)
    measure_refresh(report, size, device)
    measure_evaluation(report, size, device)
    compare_masks(report, size, device)


if __name__ == "__main__":
    main()
