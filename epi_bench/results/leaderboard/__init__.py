"""Published results: stored by track, aggregated over seeds and task orders, ranked with tests.

Records of different tracks are never ranked together. Nothing here imports torch.
"""

from __future__ import annotations

from epi_bench.results.leaderboard.configuration import group_by_configuration, settings_of
from epi_bench.results.leaderboard.export import to_csv, to_json
from epi_bench.results.leaderboard.measures import (
    COLUMNS,
    MEASURES,
    Measure,
    find_measure,
)
from epi_bench.results.leaderboard.ranking import (
    MARKS,
    Entry,
    Ranking,
    pair_of,
    rank_track,
)
from epi_bench.results.leaderboard.store import PublishedRecords, load_published, publish

__all__ = [
    "COLUMNS",
    "MARKS",
    "MEASURES",
    "Entry",
    "Measure",
    "PublishedRecords",
    "Ranking",
    "find_measure",
    "group_by_configuration",
    "load_published",
    "pair_of",
    "publish",
    "rank_track",
    "settings_of",
    "to_csv",
    "to_json",
]
