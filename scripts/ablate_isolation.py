"""The ablations behind docs/findings.md: what makes isolation keep old tasks, and what does not.

Each question changes one thing about one strategy, on the embedded suite in sequence with a random
task order for each validation seed; no published result uses these seeds.

    python scripts/ablate_isolation.py --questions controls,strength --jobs 2 --out ablation_results

The same command again goes on where it was interrupted. ``--seeds 0,1,2,3,4`` asks a question of
the published seeds; only what was chosen before may be asked there.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study import METRICS, VALIDATION_SEEDS, make_records, mean_cells, write_table

from epi_bench.results.leaderboard import p_value_text
from epi_bench.results.metrics.statistics import compare
from epi_bench.results.record.run_record import RunRecord
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import RunSpec, StrategySpec
from epi_bench.strategy.strategy import STRATEGIES


@dataclass(frozen=True)
class Setting:
    """One line of the table: a strategy, its options, changes to the training, and the stream."""

    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    stream: str = "sequential"

    def spec(self, seed: int) -> RunSpec:
        """The run with this seed."""
        base = complete_spec(
            {
                "stream": {"kind": self.stream, "order": "random"},
                "evaluation": {"probe_examples": 0},
                "training": self.training,
            }
        )
        options = inspect.signature(STRATEGIES.get(self.strategy)).parameters
        changed = {k: v for k, v in self.options.items() if v != options[k].default}
        strategy = StrategySpec(name=self.strategy, options=changed)
        return base.model_copy(update={"strategy": strategy, "seed": seed})

    def __str__(self) -> str:
        changes = {**self.options, **{f"training.{k}": v for k, v in self.training.items()}}
        text = ", ".join(f"{key} {value}" for key, value in changes.items())
        return f"`{self.strategy}` {text or '(defaults)'}"


def _consolidated(*changes: dict[str, Any], **fixed: Any) -> list[Setting]:
    return [Setting("epi_consolidated", {**fixed, **change}) for change in changes]


MASK = {"penalty": 0.0}
"""The mask of ``epi_consolidated`` alone."""

QUESTIONS: dict[str, list[Setting]] = {
    "baselines": [
        Setting(name)
        for name in (
            "full_sft",
            "epi",
            "ewc",
            "replay",
            "epi_consolidated",
            "epi_adaptive",
            "epi_similarity",
        )
    ],
    "evolving": [
        *(Setting("epi", {"beta": beta}) for beta in (0.9, 0.99, 0.999)),
        Setting("static_mask"),
        *_consolidated({"source": "gradients"}, ratio=0.5, **MASK),
        Setting("random_mask", {"ratio": 0.5}),
        Setting("inverted_mask", {"ratio": 0.5}),
    ],
    "mask_alone": [
        *_consolidated(
            {"source": "gradients", "current": True},
            {"source": "gradients"},
            {"source": "fisher"},
            ratio=0.5,
            **MASK,
        ),
    ],
    "normalisation": _consolidated(
        *({"normalisation": kind} for kind in ("mean", "rank", "min_max")), ratio=0.5, **MASK
    ),
    "merge": _consolidated({"merge": "max"}, {"merge": "mean"}, ratio=0.5, **MASK),
    "strength": _consolidated(*({"penalty": value} for value in (30.0, 50.0, 70.0, 100.0, 200.0))),
    "ratio": _consolidated(*({"ratio": value} for value in (0.0, 0.1, 0.2, 0.5))),
    "source": _consolidated({"source": "fisher"}, {"source": "gradients"}),
    "samples": _consolidated(
        {},
        {"fisher_samples": 256},
        {"penalty": 50.0},
        {"penalty": 50.0, "fisher_samples": 256},
    ),
    "controls": [
        Setting(name, {"control": control})
        for name in ("epi_similarity", "epi_consolidated")
        for control in ("none", "permuted", "inverted")
    ],
    "training": [
        Setting("epi_consolidated", training=change)
        for change in ({}, {"fresh_optimizer": False}, {"learning_rate": 7.5e-4})
    ],
    "similarity": [Setting("epi_similarity", {"sharpness": value}) for value in (0.0, 1.0, 4.0)],
    "mixed": [
        Setting(name, options, stream="mixed")
        for name, options in (
            ("full_sft", {}),
            *(("epi", {"ratio": ratio}) for ratio in (0.1, 0.3, 0.5)),
            ("random_mask", {"ratio": 0.3}),
            ("inverted_mask", {"ratio": 0.3}),
        )
    ],
    "adaptive": [Setting("epi_adaptive", {"margin": value}) for value in (0.5, 1.0, 2.0)],
}


def table(question: str, records: Sequence[tuple[RunSpec, RunRecord]]) -> str:
    """A markdown table of one question: means over the seeds that are there.

    The last two columns compare average accuracy with that of the question's first setting, paired
    by seed (and so by task order); p is of the t-test, not corrected.
    """
    lines = [
        f"### {question}",
        "",
        "| setting | seeds | average accuracy | backward transfer | learning accuracy "
        "| against the first | p |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first: dict[int, float] = {}
    for setting in QUESTIONS[question]:
        group = {spec.seed: record for spec, record in records if spec == setting.spec(spec.seed)}
        if group:
            accuracy = _by_seed(group, METRICS[0])
            first = first or accuracy
            cells = mean_cells(list(group.values()))
            compared = _compared(accuracy, first) if accuracy is not first else "– | –"
            lines.append(f"| {setting} | {len(group)} | {cells} | {compared} |")
    return "\n".join(lines) + "\n"


def _by_seed(group: Mapping[int, RunRecord], metric: str) -> dict[int, float]:
    values = {seed: record.metrics[metric] for seed, record in group.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _compared(values: Mapping[int, float], first: Mapping[int, float]) -> str:
    result = compare(values, first)
    difference = "–" if result.mean_difference is None else f"{result.mean_difference:+.1f}"
    return f"{difference} | {p_value_text(result.p_value)}"


def main() -> None:
    """Make the runs that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--questions", default=",".join(QUESTIONS), help="comma-separated")
    parser.add_argument(
        "--seeds", default=",".join(map(str, VALIDATION_SEEDS)), help="comma-separated"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("ablation_results"))
    arguments = parser.parse_args()
    questions = arguments.questions.split(",")
    if unknown := sorted(set(questions) - set(QUESTIONS)):
        parser.error(f"no question {unknown[0]!r}; there are {', '.join(QUESTIONS)}")
    wanted: list[RunSpec] = []
    for seed in (int(seed) for seed in arguments.seeds.split(",")):
        for question in questions:
            specs = [setting.spec(seed) for setting in QUESTIONS[question]]
            wanted += [spec for spec in specs if spec not in wanted]
    records = make_records(wanted, arguments.out, arguments.jobs)
    text = "\n".join(table(question, records) for question in questions)
    write_table(text, arguments.out / "ablations.md")


if __name__ == "__main__":
    main()
