"""The small search behind the strategies' defaults, on seeds that no published result uses.

Every strategy gets the same kind of search: a handful of settings of what matters most for it, the
embedded suite in sequence, one task order for each validation seed. The setting with the highest
average accuracy after the stream becomes the default.

    python scripts/search_hyperparameters.py --jobs 2 --out search_results

The same command again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from study import METRICS, VALIDATION_SEEDS, make_records, mean_cells, metric_values, write_table

from epi_bench.results.record.run_record import RunRecord
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import RunSpec, StrategySpec
from epi_bench.strategy.catalogue import search_space_of
from epi_bench.strategy.strategy import STRATEGIES

GRIDS = {
    name: search_space_of(STRATEGIES.get(name))
    for name in STRATEGIES.names()
    if STRATEGIES.is_builtin(name)
}
"""The settings that are tried of each built-in strategy, as its class says."""


def specs(names: list[str], seeds: tuple[int, ...]) -> list[RunSpec]:
    """One specification for every setting and seed."""
    base = complete_spec({"stream": {"order": "random"}, "evaluation": {"probe_examples": 0}})
    return [
        base.model_copy(
            update={"strategy": StrategySpec(name=name, options=dict(options)), "seed": seed}
        )
        for seed in seeds
        for name in names
        for options in GRIDS[name]
    ]


def table(records: list[RunRecord]) -> str:
    """A markdown table of the means over seeds, the best setting of each strategy marked."""
    groups: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        options = record.spec.strategy.options
        setting = ", ".join(f"{key}={value}" for key, value in options.items()) or "(no options)"
        groups[record.strategy.name][setting].append(record)
    lines = [
        "| strategy | setting | seeds | average accuracy | backward transfer | learning accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in GRIDS:
        settings = groups.get(name, {})
        best = max(
            settings, key=lambda s: fmean(metric_values(settings[s], METRICS[0])), default=None
        )
        for setting, group in settings.items():
            mark = " **best**" if setting == best and len(settings) > 1 else ""
            lines.append(f"| {name} | {setting}{mark} | {len(group)} | {mean_cells(group)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--strategies", default=",".join(GRIDS), help="names, comma-separated")
    parser.add_argument("--seeds", type=int, default=len(VALIDATION_SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("search_results"))
    arguments = parser.parse_args()
    wanted = specs(arguments.strategies.split(","), VALIDATION_SEEDS[: arguments.seeds])
    made = make_records(wanted, arguments.out, arguments.jobs)
    write_table(table([record for _, record in made]), arguments.out / "table.md")


if __name__ == "__main__":
    main()
