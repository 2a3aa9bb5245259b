"""The WiSE-FT curve of a run as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.results.record.run_record import RunRecord
    from epi_bench.tables import FittedTable


def interpolation_table(record: RunRecord, run: str = "") -> FittedTable | None:
    """Scores at each share of the finished weights; ``None`` if they were not measured.

    Args:
        record: The run.
        run: What to begin the title with.
    """
    from epi_bench.tables import Column, FittedTable

    curve = record.wise_ft
    if curve is None:
        return None
    names = [name if name in record.task_order else f"{name} (eval)" for name in curve.tasks]
    columns = [
        Column("alpha"),
        *(Column(name, numeric=True) for name in names),
        Column("general text", numeric=True),
    ]
    rows = [
        (f"{p.alpha:g}", *(_text(value, 1) for value in p.values), _text(p.nll, 3))
        for p in curve.points
    ]
    title = "WiSE-FT curve: scores (0 to 100) of (1 - alpha) base + alpha finished model, and loss"
    return FittedTable(columns, rows, f"{run}{title} on general text (nats a token)")


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
