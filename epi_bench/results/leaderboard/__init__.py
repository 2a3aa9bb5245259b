"""Published results: stored by track, aggregated over seeds and task orders, ranked with tests.

Records of different tracks are never ranked together. Nothing here imports torch.
"""

from __future__ import annotations

from epi_bench.results.leaderboard.boards import (
    OWN_BOARD,
    PUBLISHED_BOARD,
    Boards,
    TrackRuns,
    default_board,
    load_boards,
    published_board,
)
from epi_bench.results.leaderboard.comparison import (
    COMPARED,
    ComparedStrategy,
    compare,
    compare_with_others,
    compared_measures,
    find_label,
    p_value_text,
)
from epi_bench.results.leaderboard.configuration import group_by_configuration, settings_of
from epi_bench.results.leaderboard.export import (
    comparisons_to_csv,
    comparisons_to_json,
    to_csv,
    to_json,
)
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
    rank_track,
)
from epi_bench.results.leaderboard.repetitions import pair_of
from epi_bench.results.leaderboard.store import (
    PublishedRecords,
    load_published,
    load_track,
    publish,
)

__all__ = [
    "COLUMNS",
    "COMPARED",
    "MARKS",
    "MEASURES",
    "OWN_BOARD",
    "PUBLISHED_BOARD",
    "Boards",
    "ComparedStrategy",
    "Entry",
    "Measure",
    "PublishedRecords",
    "Ranking",
    "TrackRuns",
    "compare",
    "compare_with_others",
    "compared_measures",
    "comparisons_to_csv",
    "comparisons_to_json",
    "default_board",
    "find_label",
    "find_measure",
    "group_by_configuration",
    "load_boards",
    "load_published",
    "load_track",
    "p_value_text",
    "pair_of",
    "publish",
    "published_board",
    "rank_track",
    "settings_of",
    "to_csv",
    "to_json",
]
