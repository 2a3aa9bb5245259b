"""The sentences around a table: what its columns mean, and what of the track matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from epi_bench.results.leaderboard import MARKS, MEASURES, Ranking
from epi_bench.results.leaderboard.table import BEST, MARK_SIGNS, UNDEFINED, RankingTable
from epi_bench.results.metrics.statistics import SIGNIFICANCE


def legend(tables: Sequence[RankingTable], shown: Callable[[str], str] = str) -> list[str]:
    """What a reader needs to understand these tables, one line a subject.

    Args:
        tables: What is explained.
        shown: How names in it are shown in the place where the lines go.
    """
    columns = {c.title: c.formula for table in tables for c in table.columns if c.formula}
    entries = [entry for table in tables for entry in table.ranking.entries]
    lines = [
        "R[t,i]: score (0 to 100) on task i after experience t; t = 0 is the base model, T the "
        "last row. S_i: score of full fine-tuning on task i alone with the same budget.",
        *(f"{title}: {formula}." for title, formula in columns.items()),
        *(line for table in tables for line in _left_out_tasks(table, shown)),
        f"{BEST} best value of a column. {UNDEFINED} undefined.",
        *dict.fromkeys(_about_ranks(table.ranking) for table in tables),
    ]
    present = {mark for entry in entries for mark in entry.marks}
    lines += [f"{MARK_SIGNS[mark]} {MARKS[mark]}." for mark in MARKS if mark in present]
    return lines


def describe_track(ranking: Ranking, shown: Callable[[str], str] = str) -> str:
    """What all runs of a track have in common, in one line; arguments as :func:`legend`."""
    facts = ranking.facts
    budget = f"{facts.steps} steps" if facts.steps is not None else f"{facts.epochs:g} epochs"
    kept = [shown(name) for name in facts.eval_tasks]
    limits = [
        f"{count} {kind} examples a task"
        for kind, count in (("training", facts.train_examples), ("test", facts.test_examples))
        if count is not None
    ]
    parts = [
        f"Model {shown(facts.model)}",
        f"{shown(facts.stream)} stream of {', '.join(map(shown, facts.tasks))}",
        f"{budget} a task with {facts.examples_per_step} examples a step",
        *([f"scored and never trained: {', '.join(kept)}"] if kept else []),
        *(
            [f"loss on a general text of its own ({facts.general_text[:8]})"]
            if facts.general_text
            else []
        ),
        f"up to {facts.max_length} tokens",
        *limits,
    ]
    return "; ".join(parts) + "."


def _about_ranks(ranking: Ranking) -> str:
    title = MEASURES[ranking.measure].title
    if all(len(entry.pairs) < 2 for entry in ranking.entries):
        return (
            f"Ordered by {title}. Strategies with a single run cannot be told apart and share a "
            "rank: add seeds and task orders."
        )
    return (
        f"±: 95 % Student-t interval over the (seed, task order) pairs. Ranked by {title}; a "
        "strategy shares the rank of the best above it unless a paired t-test (Holm-corrected over "
        f"all pairs of strategies, p < {SIGNIFICANCE}) finds it worse."
    )


def _left_out_tasks(table: RankingTable, shown: Callable[[str], str]) -> list[str]:
    """A line for each shown mean that leaves tasks out, with their number in each entry."""
    lines = []
    for name in table.measures:
        counts = MEASURES.get(f"{name}_left_out")
        if counts is None:
            continue
        found = {entry.label: entry.values[counts.name] for entry in table.ranking.entries}
        counted = [f"{shown(label)} {i.mean:g}" for label, i in found.items() if i and i.mean > 0]
        if counted:
            lines.append(f"{counts.title}, mean over the runs: {', '.join(counted)}.")
    return lines
