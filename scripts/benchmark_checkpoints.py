"""What checkpoints cost: size against the model's, seconds, and the run's time with and without.

    python scripts/benchmark_checkpoints.py --model tiny --strategies full_sft,lora,epi --every 10

One run of each strategy without checkpoints and one with, in turn, in a temporary folder; the times
are those of the whole runs. For the time that the defaults cost, leave out --every.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter

from epi_bench import RunSpec
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import DEFAULT_EVERY, OFF, checkpoint_settings
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--strategies", default="full_sft,lora,epi")
    parser.add_argument("--tasks", default="mini_math,mini_logic")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", default=DEFAULT_EVERY)
    parser.add_argument(
        "--repeat", type=int, default=1, help="runs of each kind; the fastest counts"
    )
    asked = parser.parse_args()
    print(
        f"{'strategy':18}{'checkpoints':>12}{'largest / model':>17}{'s each':>8}{'time ratio':>12}"
    )
    for strategy in asked.strategies.split(","):
        spec = RunSpec.model_validate(
            {
                "model": {"name": asked.model},
                "strategy": {"name": strategy},
                "data": {
                    "tasks": asked.tasks.split(","),
                    "train_examples": 64,
                    "test_examples": 16,
                },
                "training": {"steps": asked.steps},
            }
        )
        _run(spec, "0")  # the first one reads files and starts libraries
        without, with_them = [], []
        sizes: list[int] = []
        for _ in range(asked.repeat):
            without.append(_run(spec, "0")[0])
            seconds, sizes, each, model = _run(spec, asked.every)
            with_them.append(seconds)
        largest = f"{max(sizes, default=0) / model:.2f}"
        ratio = f"{min(with_them) / min(without):.3f}"
        print(f"{strategy:18}{len(sizes):12}{largest:>17}{each:8.2f}{ratio:>12}")


def _run(spec: RunSpec, every: str) -> tuple[float, list[int], float, int]:
    """Seconds of the run, bytes of its checkpoints, mean seconds of one, bytes of the model."""
    settings = OFF if every == "0" else checkpoint_settings(every)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        started = perf_counter()
        outcome = run_one(
            spec, RunRequest(workspace, checkpoints=settings, published=False), RunObserver()
        )
        seconds = perf_counter() - started
        if outcome.record is None or outcome.record.cost is None:
            raise SystemExit(outcome.reason)
        lines = workspace.events_path(outcome.record.run_id).read_text(encoding="utf-8")
        events = [json.loads(line) for line in lines.splitlines()]
        saved = [event for event in events if event["event"] == "checkpoint"]
        each = sum(event["seconds"] for event in saved) / max(len(saved), 1)
        model = 4 * outcome.record.cost.total_parameters
        return seconds, [event["bytes"] for event in saved], each, model


if __name__ == "__main__":
    main()
