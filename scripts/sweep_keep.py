"""The runs behind docs/keeping.md: every strategy on ``mini-keep``, eight pairs.

A pair is one of the five bases of ``make_keep_bases.py``, fine-tuned on the task it has never seen
with the four others as eval tasks, and a seed. Every built-in strategy that acts on a stream of one
experience trains each pair at its defaults; those that can protect the base model do so, from
text that it writes itself and from general text. Full fine-tuning also trains at lower learning
rates, and once with its WiSE-FT curve: these are what the others are compared with at equal
learning.

    python scripts/sweep_keep.py --out mini_keep --jobs 2
    python scripts/keep_table.py mini_keep/keep/runs

Bases that are missing are made first. The same command again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from make_keep_bases import make_base, settings_of
from study import make_records

from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import MINI_TASKS, RunSpec
from epi_bench.strategy.strategy import STRATEGIES

PAIRS = [*((task, 0) for task in MINI_TASKS), *((task, 1) for task in MINI_TASKS[:3])]
"""A base's new task, and a seed."""

LEARNING_RATE_DIVISORS = (2, 4, 8, 16)
"""Of full fine-tuning's further runs."""

SOURCES = ("self", "general_text")
"""What ``protect_base`` is set to, and what ``replay`` draws from."""

SAME_AS_OTHERS = ("inc_lora", "n_lora", "o_lora", "ewc_lora", "cpi_ft", "self_output")
"""On these tasks, and in a first experience, they are ``lora`` or full fine-tuning."""


def strategies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each strategy that acts in a first experience, with the options that make it act there."""
    for name in STRATEGIES.names():
        if not STRATEGIES.is_builtin(name) or name in SAME_AS_OTHERS:
            continue
        kind = STRATEGIES.get(name)
        if kind().acts_from == 0:
            yield name, {}
        if "protect_base" in inspect.signature(kind).parameters:
            yield from ((name, {"protect_base": source}) for source in SOURCES)
    yield "l2_sp", {"anchor": "base"}
    yield from (("replay", {"source": source}) for source in SOURCES)


def specs(out: Path, names: Sequence[str] = ()) -> list[RunSpec]:
    """The runs, pair by pair.

    Args:
        out: The bases' folder.
        names: Of strategies; all if empty.
    """
    made = []
    for task, seed in PAIRS:
        base = out / f"keep-{task}"
        # the path as it was given: records are to name no folder of one machine
        settings = settings_of(task, base) | {"model": {"name": str(base)}, "seed": seed}
        training, evaluation = settings["training"], settings["evaluation"]
        rates = [training["learning_rate"] / divisor for divisor in LEARNING_RATE_DIVISORS]
        wanted: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            *((name, options, {}) for name, options in strategies()),
            *(("full_sft", {}, {"training": {**training, "learning_rate": r}}) for r in rates),
            ("full_sft", {}, {"evaluation": {**evaluation, "wise_ft_curve": True}}),
        ]
        for name, options, changes in wanted:
            if not names or name in names:
                strategy = {"name": name, "options": options}
                made.append(complete_spec({**settings, **changes, "strategy": strategy}))
    return made


def main() -> None:
    """Make the bases and the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("mini_keep"), help="folder of the bases")
    parser.add_argument("--strategies", default="", help="names with commas; all if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    given = parser.parse_args()
    for task in MINI_TASKS:
        if not (given.out / f"keep-{task}").is_dir():
            make_base(task, given.out, steps=100)
    names = [name for name in given.strategies.split(",") if name]
    make_records(specs(given.out, names), given.out / "keep", given.jobs)


if __name__ == "__main__":
    main()
