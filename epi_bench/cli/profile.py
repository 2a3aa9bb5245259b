"""``epi-bench profile``: what strategies cost on the user's own model and machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from epi_bench.cli import completion
from epi_bench.cli.flag_names import with_flags
from epi_bench.cli.printing import complain, put
from epi_bench.cli.setting_flags import SettingFlags, takes_settings
from epi_bench.foreign_text import json_text
from epi_bench.spec.defaults import overlay
from epi_bench.training.profiling import Workload


class ProfileFormat(StrEnum):
    """How the profile is printed."""

    TABLE = "table"
    JSON = "json"


@takes_settings(
    "model.name",
    "model.revision",
    "model.dtype",
    "training.optimizer",
    "training.autocast",
    "training.master_weights",
    "threads",
)
def profile(
    strategies: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-s",
            help="Names and families separated by commas, or all.",
            autocompletion=completion.strategies,
        ),
    ] = "all",
    set_option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[STRATEGY.]NAME=VALUE",
            help="Hyperparameter of a strategy; repeatable.",
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file that registers more; repeatable."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples of a step.")
    ] = Workload.batch_size,
    length: Annotated[int, typer.Option(min=2, help="Tokens of each example.")] = Workload.length,
    steps: Annotated[
        int, typer.Option(min=1, help="Timed steps of a turn; 20 hold one refresh of epi's mask.")
    ] = Workload.steps,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each strategy.")] = Workload.rounds,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU.")] = False,
    output_format: Annotated[
        ProfileFormat, typer.Option("--format", help="table or json.")
    ] = ProfileFormat.TABLE,
    *,
    settings: SettingFlags,
) -> None:
    """Time training steps of strategies on synthetic batches, beside full fine-tuning."""
    from epi_bench.api.selection import Selection

    measured = {"training": {"steps": steps, "batch_size": batch_size}}
    selection = Selection(
        given=overlay(settings, measured),
        strategies=strategies,
        strategy_options=set_option or [],
        tasks=None,
        stream_options=[],
        seeds=1,
        config=None,
        plugins=plugin or [],
        data_dir=None,
    )
    specs = selection.specs()
    workload = Workload(batch_size, length, steps, rounds)
    report = _measure(specs, workload, cpu)
    if output_format is ProfileFormat.JSON:
        put(json_text(report))
    else:
        _print_table(report)


def _measure(specs: list[Any], workload: Workload, cpu: bool) -> dict[str, Any]:
    import torch

    from epi_bench.model.load import load_backbone
    from epi_bench.training.profiling import profile_strategies

    spec = specs[0]
    if spec.threads:
        torch.set_num_threads(spec.threads)
    backbone = load_backbone(spec.model)
    chosen = {s.strategy.name: (s.strategy.name, s.strategy.options) for s in specs}
    profiles = profile_strategies(backbone.model, chosen, workload, spec.training, cpu)
    on_gpu = torch.cuda.is_available() and not cpu
    return {
        "model": spec.model.name,
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": workload.batch_size,
        "length": workload.length,
        "steps": workload.steps,
        "rounds": workload.rounds,
        "strategies": [p.summary(profiles[0], workload.tokens) for p in profiles],
    }


def _ratio(row: dict[str, Any]) -> str:
    """The median over rounds, and the smallest and largest where there are several."""
    lowest, highest = row["ratio_range"]
    spread = f" ({lowest:.2f}–{highest:.2f})" if highest > lowest else ""
    return f"{row['ratio_to_full_sft']:.3f}{spread}"


def _print_table(report: dict[str, Any]) -> None:
    from epi_bench.tables import Column, FittedTable, make_console

    columns = [Column("strategy")]
    for name in ("ms a step", "to full_sft", "tokens/s", "peak MiB", "extra state MiB"):
        columns.append(Column(name, numeric=True))
    rows = []
    for row in report["strategies"]:
        if row["error"]:
            rows.append((row["strategy"], "failed", "", "", "", ""))
            continue
        peak = row["peak_memory_bytes"]
        rows.append(
            (
                row["strategy"],
                f"{1000 * row['seconds_per_step']:.1f}",
                _ratio(row),
                f"{row['tokens_per_second']:,.0f}",
                "" if peak is None else f"{peak / 2**20:,.0f}",
                f"{row['extra_state_bytes'] / 2**20:,.2f}",
            )
        )
    title = (
        f"{report['model']}, {report['parameters']:,} parameters, {report['device']}, "
        f"{report['batch_size']} x {report['length']} tokens a step, "
        f"{report['rounds']} rounds of {report['steps']} steps"
    )
    make_console().print(FittedTable(columns, rows, title))
    for row in report["strategies"]:
        if row["error"]:
            reason = with_flags(row["error"])
            complain(f"warning: {row['strategy']}: {reason}")
