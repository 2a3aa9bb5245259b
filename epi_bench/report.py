"""Rankings as tables to be read: on the terminal, in markdown, beside the records.

The same rankings always give the same text: no dates, no environment. Undefined is an en dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.atomic import write_atomically
from epi_bench.leaderboard import (
    COLUMNS,
    MARKS,
    MEASURES,
    Entry,
    Measure,
    PublishedRecords,
    Ranking,
    rank_track,
    to_csv,
)
from epi_bench.statistics import SIGNIFICANCE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNDEFINED = "–"
BEST = "★"
MARK_SIGNS = {"dirty": "†", "fewer": "‡"}


@dataclass(frozen=True)
class TableColumn:
    """A column ready to be shown.

    Attributes:
        title: Its head.
        formula: Its line in the legend; empty for none.
        cells: One text an entry.
        best: For each entry whether it holds the column's best value.
        numeric: Whether it is aligned to the right.
    """

    title: str
    formula: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    numeric: bool = True


def table_columns(ranking: Ranking) -> list[TableColumn]:
    """The columns of a ranking's table; metrics that no entry defines are left out."""
    entries = ranking.entries
    none_best = (False,) * len(entries)
    columns = [
        TableColumn("rank", "", tuple(_rank(entry) for entry in entries), none_best),
        TableColumn("strategy", "", tuple(_marked(entry) for entry in entries), none_best, False),
        TableColumn("runs", "", tuple(str(entry.runs) for entry in entries), none_best),
    ]
    columns += [_measure_column(MEASURES[name], entries) for name in table_measures(ranking)]
    if any(entry.order_sensitivity for entry in entries):
        cells = tuple(_order_cell(entry) for entry in entries)
        formula = "max - min of R[T,i] over task orders: mean over the tasks / largest"
        columns.append(TableColumn("order sensitivity", formula, cells, none_best))
    return columns


def table_measures(ranking: Ranking) -> list[str]:
    """Names of the measures that a ranking's table shows."""
    shown = [name for name in COLUMNS if any(entry.values[name] for entry in ranking.entries)]
    return shown if ranking.measure in shown else [ranking.measure, *shown]


def legend(rankings: Sequence[Ranking]) -> list[str]:
    """What a reader needs to understand the tables of these rankings, one line a subject."""
    columns = {c.title: c.formula for r in rankings for c in table_columns(r) if c.formula}
    lines = [
        "R[t,i]: score (0 to 100) on task i after experience t; t = 0 is the base model, T the "
        "last row. S_i: score of full fine-tuning on task i alone with the same budget.",
        *(f"{title}: {formula}." for title, formula in columns.items()),
        *(line for ranking in rankings for line in _left_out_tasks(ranking)),
        f"{BEST} best value of a column. {UNDEFINED} undefined.",
        *dict.fromkeys(_about_ranks(ranking) for ranking in rankings),
    ]
    present = {mark for r in rankings for entry in r.entries for mark in entry.marks}
    lines += [f"{MARK_SIGNS[mark]} {MARKS[mark]}." for mark in MARKS if mark in present]
    return lines


def describe_track(ranking: Ranking) -> str:
    """What all runs of a track have in common, in one line."""
    facts = ranking.facts
    budget = f"{facts.steps} steps" if facts.steps is not None else f"{facts.epochs:g} epochs"
    limits = [
        f"{count} {kind} examples a task"
        for kind, count in (("training", facts.train_examples), ("test", facts.test_examples))
        if count is not None
    ]
    parts = [
        f"Model {facts.model}",
        f"{facts.stream} stream of {', '.join(facts.tasks)}",
        f"{budget} a task with {facts.examples_per_step} examples a step",
        f"up to {facts.max_length} tokens",
        *limits,
    ]
    return "; ".join(parts) + "."


def print_rankings(rankings: Sequence[Ranking], console: Console) -> None:
    """Tables for the terminal and one legend for all; columns that do not fit are named."""
    for position, ranking in enumerate(rankings):
        if position:
            console.print()
        console.print(ranking.track, style="bold", highlight=False, markup=False)
        console.print(describe_track(ranking), highlight=False, markup=False)
        columns = table_columns(ranking)
        fitting = _fitting(columns, console.width)
        console.print(_terminal_table(fitting))
        left_out = [column.title for column in columns if column not in fitting]
        if left_out:
            console.print(
                f"Not shown for lack of width: {', '.join(left_out)} (see --format csv).",
                highlight=False,
                markup=False,
            )
    console.print()
    for line in legend(rankings):
        console.print(line, style="dim", highlight=False, markup=False)


def to_markdown(ranking: Ranking, level: int = 2) -> str:
    """A section with the table and its legend.

    Args:
        ranking: What is shown.
        level: Of the heading.
    """
    columns = table_columns(ranking)
    lines = [f"{'#' * level} {ranking.track}", "", describe_track(ranking), ""]
    lines.append(_markdown_row([column.title for column in columns]))
    lines.append(_markdown_row(["---:" if column.numeric else ":---" for column in columns]))
    for row in range(len(ranking.entries)):
        lines.append(
            _markdown_row(
                [f"**{c.cells[row]}** {BEST}" if c.best[row] else c.cells[row] for c in columns]
            )
        )
    lines += ["", *(f"- {line}" for line in legend([ranking]))]
    return "\n".join(lines) + "\n"


def rendered_files(published: PublishedRecords) -> dict[Path, str]:
    """The tables that belong beside the records, by their path below the folder.

    ``README.md`` lists the tracks; each track's folder gets a ``README.md`` and ``results.csv``.
    """
    rankings = [rank_track(records) for _, records in sorted(published.tracks.items())]
    files = {Path("README.md"): _index(rankings)}
    for ranking in rankings:
        page = to_markdown(ranking, level=1) + f"\n{_GENERATED}\n"
        files[Path(ranking.track) / "README.md"] = page
        files[Path(ranking.track) / "results.csv"] = to_csv([ranking])
    return files


def write_rendered_files(published: PublishedRecords) -> list[Path]:
    """Write :func:`rendered_files`; only files whose text changed are touched and returned."""
    changed = []
    for relative, text in rendered_files(published).items():
        path = published.root / relative
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomically(path, text)
            changed.append(path)
    return changed


_GENERATED = "Made from the records in this folder by `epi-bench leaderboard --update`."


def _index(rankings: Sequence[Ranking]) -> str:
    lines = [
        "# Leaderboards",
        "",
        "A track holds runs that may be compared: same model, tasks, budget, stream and scoring.",
        "",
        _markdown_row(["track", "model", "stream", "tasks", "strategies", "runs", "first"]),
        _markdown_row([":---", ":---", ":---", "---:", "---:", "---:", ":---"]),
    ]
    for ranking in rankings:
        facts = ranking.facts
        firsts = [entry.label for entry in ranking.entries if entry.rank == 1]
        first = firsts[0] if len(firsts) == 1 else f"{len(firsts)} share the first rank"
        lines.append(
            _markdown_row(
                [
                    f"[{ranking.track}]({ranking.track}/README.md)",
                    facts.model,
                    facts.stream,
                    str(len(facts.tasks)),
                    str(len(ranking.entries)),
                    str(sum(entry.runs for entry in ranking.entries)),
                    first if firsts else UNDEFINED,
                ]
            )
        )
    return "\n".join([*lines, "", _GENERATED]) + "\n"


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


def _left_out_tasks(ranking: Ranking) -> list[str]:
    """A line for each shown mean that leaves tasks out, with their number in each entry."""
    lines = []
    for name in table_measures(ranking):
        counts = MEASURES.get(f"{name}_left_out")
        if counts is None:
            continue
        found = {entry.label: entry.values[counts.name] for entry in ranking.entries}
        told = [f"{label} {i.mean:g}" for label, i in found.items() if i and i.mean > 0]
        if told:
            lines.append(f"{counts.title}, mean over the runs: {', '.join(told)}.")
    return lines


def _measure_column(measure: Measure, entries: Sequence[Entry]) -> TableColumn:
    intervals = [entry.values[measure.name] for entry in entries]
    means = [interval.mean for interval in intervals if interval]
    best = (max(means) if measure.higher_is_better else min(means)) if means else None
    distinct = len(set(means)) > 1 and not measure.diagnostic
    return TableColumn(
        measure.title,
        measure.formula,
        tuple(_cell(entry, measure) for entry in entries),
        tuple(bool(distinct and interval and interval.mean == best) for interval in intervals),
    )


def _cell(entry: Entry, measure: Measure) -> str:
    interval = entry.values[measure.name]
    if interval is None:
        return UNDEFINED
    text = _fixed(interval.mean / measure.divisor, measure.decimals)
    if interval.half_width is not None:
        text += f" ± {_fixed(interval.half_width / measure.divisor, measure.decimals)}"
    return text if interval.n == len(entry.pairs) else f"{text} (n={interval.n})"


def _order_cell(entry: Entry) -> str:
    if entry.order_sensitivity is None:
        return UNDEFINED
    mean, largest = entry.order_sensitivity
    return f"{mean:.1f} / {largest:.1f}"


def _rank(entry: Entry) -> str:
    return UNDEFINED if entry.rank is None else str(entry.rank)


def _marked(entry: Entry) -> str:
    signs = "".join(MARK_SIGNS[mark] for mark in entry.marks)
    return f"{entry.label} {signs}" if signs else entry.label


def _fixed(value: float, decimals: int) -> str:
    """Fixed-point text in which nothing rounds to minus zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _fitting(columns: Sequence[TableColumn], width: int) -> list[TableColumn]:
    """The leading columns that fit; rank, strategy, runs and the first measure always do."""
    used = 0
    fitting: list[TableColumn] = []
    for column in columns:
        words = column.title.split()
        if column.numeric:
            words += [
                f"{c} {BEST}" if b else c for c, b in zip(column.cells, column.best, strict=True)
            ]
        else:
            words += [word for cell in column.cells for word in cell.split()]
        used += max(len(word) for word in words) + 2
        if len(fitting) >= 4 and used > width:
            break
        fitting.append(column)
    return fitting


def _terminal_table(columns: Sequence[TableColumn]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    texts = []
    for column in columns:
        cells = _starred(column)
        table.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            vertical="bottom",
            min_width=max(map(len, cells)) if column.numeric else None,
            overflow="fold",
        )
        styles = ["bold" if best else "" for best in column.best]
        texts.append([Text(c, style=style) for c, style in zip(cells, styles, strict=True)])
    for row in zip(*texts, strict=True):
        table.add_row(*row)
    return table


def _starred(column: TableColumn) -> list[str]:
    """The cells with a star after the best ones, padded so that the numbers stay aligned."""
    if not any(column.best):
        return list(column.cells)
    stars = [f" {BEST}" if best else "  " for best in column.best]
    return [cell + star for cell, star in zip(column.cells, stars, strict=True)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
