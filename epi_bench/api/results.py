"""Runs that were made, as one object: a ranking to look at, data frames, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from epi_bench.api.frames import interpolation_rows, item_rows, run_rows, score_rows
from epi_bench.api.ranking_view import ranking_html, ranking_parts
from epi_bench.errors import UserError, unknown_name
from epi_bench.results.leaderboard import (
    OWN_BOARD,
    PUBLISHED_BOARD,
    PublishedRecords,
    Ranking,
    default_board,
    group_by_configuration,
    load_published,
    load_track,
    rank_track,
)
from epi_bench.results.leaderboard.comparison import compare, find_label
from epi_bench.results.metrics.statistics import Comparison
from epi_bench.results.record import record_file
from epi_bench.results.record.run_record import RunRecord
from epi_bench.runs.request import RunOutcome
from epi_bench.tables import make_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

Grain = Literal["run", "score", "item", "wise_ft"]
"""What a row of a data frame is."""

GRAINS = {
    "run": run_rows,
    "score": score_rows,
    "item": item_rows,
    "wise_ft": interpolation_rows,
}

SELECTED_BY = ("strategy", "label", "seed", "track")
"""What :meth:`Results.select` can choose by."""

TEXT_WIDTH = 100
"""Columns of a ranking that is shown as plain text."""


@dataclass(frozen=True, eq=False, repr=False)
class Results(Sequence[RunRecord]):
    """Finished runs, and what became of the others.

    A sequence of records. Shown in a notebook or on a terminal, it is the ranking of each track.

    Attributes:
        records: The finished runs.
        failures: Runs that failed (with a record that says why) or could not start.
        problems: One line for each file that was left out, with its reason.
        labels: Run id -> the label that the caller gave its strategy, where there is one.
    """

    records: tuple[RunRecord, ...]
    failures: tuple[RunOutcome, ...] = ()
    problems: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> RunRecord | Results:
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.records[index]

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self.records)

    @property
    def tracks(self) -> list[str]:
        """Names of the tracks: runs of one track have model, tasks, budget and stream in common."""
        return sorted({record.track.name for record in self.records})

    def label_of(self, record: RunRecord) -> str:
        """A run's strategy, with the settings that tell it from others of its track."""
        return self._labels()[record.run_id]

    def to_frame(self, grain: Grain = "run") -> pd.DataFrame:
        """The results as a pandas data frame.

        Args:
            grain: What a row is.

                - ``"run"``: a run, with every metric and every cost as a column;
                - ``"score"``: a cell of a score matrix: ``row`` (``"base"``, or the experience
                  after which the model was scored), ``task``, ``trained`` (``False`` for eval
                  tasks, which are scored only), ``score`` (0 to 100) and its ``standard_error``;
                - ``"item"``: a test item after the last experience: ``task``, ``trained``, ``item``
                  (its position among the run's test examples) and ``score`` (0 to 100);
                - ``"wise_ft"``: a task at a point between the base model and the finished one, of
                  the runs that scored these (``wise_ft_curve``): ``alpha`` (share of the finished
                  weights), ``task``, ``trained``, ``score``, ``standard_error`` and
                  ``general_text_nll`` (nats a token).

                All have the columns ``track``, ``strategy``, ``label``, ``seed``, ``task_order``
                and ``run_id``.

        Raises:
            UserError: If there is no such grain.

        Example:
            ```python
            frame = epi_bench.load_results("leaderboards").to_frame()
            frame.groupby("strategy")["average_accuracy"].mean()
            ```
        """
        import pandas as pd

        if grain not in GRAINS:
            raise unknown_name("grain", str(grain), GRAINS)
        return pd.DataFrame(GRAINS[grain](self.records, self._labels()))

    def ranking(self, measure: str = "average_accuracy", track: str | None = None) -> Ranking:
        """The ranking of one track, best first, with the tests between all pairs.

        Args:
            measure: A metric or cost, such as ``"forgetting"`` or ``"training_seconds"``.
            track: Which one, where the results are of several.

        Raises:
            UserError: If the track or the measure is unknown, the results are of several tracks
                and none is named, or there are none.
        """
        chosen = self._one_track(track)
        ranking = rank_track(chosen.records, measure)
        renamed = chosen._own_labels()
        return replace(
            ranking,
            entries=tuple(
                replace(entry, label=renamed.get(entry.label, entry.label))
                for entry in ranking.entries
            ),
            comparisons={
                (renamed.get(first, first), renamed.get(second, second)): found
                for (first, second), found in ranking.comparisons.items()
            },
        )

    def difference(
        self, first: str, second: str, measure: str = "average_accuracy", track: str | None = None
    ) -> Comparison:
        """The paired difference of two strategies, first minus second.

        Runs are paired by seed and task order. With a single pair, average accuracy is compared on
        the test items instead, which says nothing about other seeds.

        Args:
            first: Label or name of a strategy.
            second: The same of the other one.
            measure: A metric or cost.
            track: Which one, where the results are of several.

        Returns:
            Mean difference with its interval, number of pairs and p value.

        Raises:
            UserError: If a strategy, the measure or the track is unknown, or a name stands for
                several configurations.
        """
        chosen = self._one_track(track)
        groups = chosen._groups()
        return compare(
            groups[find_label(groups, first)], groups[find_label(groups, second)], measure
        )

    def select(
        self,
        *,
        strategy: str | None = None,
        label: str | None = None,
        seed: int | None = None,
        track: str | None = None,
    ) -> Results:
        """The runs of a strategy, a label, a seed, a track, or several of these together.

        Raises:
            UserError: If there is no such run; the closest names are given.
        """
        labels = self._labels()
        kept = list(self.records)
        for what, wanted, value_of in (
            ("track", track, lambda record: record.track.name),
            ("strategy", strategy, lambda record: record.strategy.name),
            ("label", label, lambda record: labels[record.run_id]),
            ("seed", seed, lambda record: record.spec.seed),
        ):
            if wanted is None:
                continue
            known = {value_of(record) for record in kept}
            if wanted not in known:
                raise unknown_name(what, str(wanted), map(str, known))
            kept = [record for record in kept if value_of(record) == wanted]
        return replace(self, records=tuple(kept), failures=(), problems=())

    def __repr__(self) -> str:
        text = StringIO()
        make_console(file=text, width=TEXT_WIDTH).print(self)
        return text.getvalue().rstrip()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from ranking_parts(self._rankings(), self._notes())

    def _repr_html_(self) -> str:
        return ranking_html(self._rankings(), self._notes())

    def _rankings(self) -> list[Ranking]:
        return [self.ranking(track=name) for name in self.tracks]

    def _notes(self) -> list[str]:
        """What there is beside finished runs, one line each."""
        failed = [
            f"{outcome.spec.label}, seed {outcome.spec.seed}: {outcome.reason}"
            for outcome in self.failures
        ]
        head = [] if self.records else ["no finished run"]
        return [*head, *(f"failed: {line}" for line in failed), *self.problems]

    def _one_track(self, track: str | None) -> Results:
        if not self.records:
            raise UserError("there is no finished run to rank")
        if track is None and len(self.tracks) > 1:
            raise UserError(
                f"these results are of {len(self.tracks)} tracks, which are never ranked "
                f"together: give track= one of {', '.join(map(repr, self.tracks))}"
            )
        return self.select(track=track or self.tracks[0])

    def _groups(self) -> dict[str, list[RunRecord]]:
        """The repetitions of each configuration by label; the results are of one track."""
        renamed = self._own_labels()
        return {
            renamed.get(label, label): group
            for label, group in group_by_configuration(self.records).items()
        }

    def _own_labels(self) -> dict[str, str]:
        """Label of a configuration -> the caller's own, where all its runs have the same."""
        renamed = {}
        for label, group in group_by_configuration(self.records).items():
            own = {self.labels.get(record.run_id) for record in group}
            if len(own) == 1 and (name := own.pop()) is not None:
                renamed[label] = name
        return renamed

    def _labels(self) -> dict[str, str]:
        """Run id -> label."""
        found: dict[str, str] = {}
        for track in self.tracks:
            of_track = replace(
                self, records=tuple(r for r in self.records if r.track.name == track)
            )
            for label, group in of_track._groups().items():
                found |= {record.run_id: label for record in group}
        return found


def load_record(path: str | Path) -> RunRecord:
    """The record of a run.

    Args:
        path: A record's file, or the folder of a run.

    Raises:
        UserError: If there is none, or the file cannot be read as one.
    """
    path = Path(path).expanduser()
    return record_file.load_record(path / "record.json" if path.is_dir() else path)


def load_results(path: str | Path | None = None) -> Results:
    """The runs in a folder.

    Args:
        path: A board (``results/``, ``leaderboards/``), the folder of one of its tracks, a
            ``runs/`` folder, or the folder that holds them. Left out: your own board,
            ``./results``; where it holds nothing, the published one of the checkout. Files that are
            not valid records are left out and named in ``problems``; failed runs of a ``runs/``
            folder are in ``failures``.

    Raises:
        UserError: If the folder is missing or holds no record at all.

    Example:
        ```python
        board = epi_bench.load_results("leaderboards")
        board.select(strategy="epi").to_frame()
        ```
    """
    folder = default_board() if path is None else Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"no results in {folder}: the folder does not exist")
    if any(folder.glob("*/record.json")):
        return _load_runs(folder)
    if any(folder.glob("*.json")):
        return _results(load_track(folder))
    if not any(folder.glob("*/*.json")):
        boards = [folder / name for name in (OWN_BOARD, PUBLISHED_BOARD)]
        if any(board.is_dir() for board in boards):
            folder = next(board for board in boards if board.is_dir())
        elif (folder / "runs").is_dir():
            return _load_runs(folder / "runs")
    return _results(load_published(folder))


def _results(published: PublishedRecords) -> Results:
    return Results(
        records=tuple(
            record for name in sorted(published.tracks) for record in published.tracks[name]
        ),
        problems=published.problems,
    )


def _load_runs(folder: Path) -> Results:
    finished, failed, problems = [], [], []
    counted: dict[str, Path] = {}
    for path in sorted(folder.glob("*/record.json")):
        try:
            record = record_file.load_record(path)
        except UserError as error:
            problems.append(str(error))
            continue
        first = counted.setdefault(record.run_id, path)
        if first != path:
            problems.append(f"{path}: run {record.run_id} counts once, as {first}")
        elif record.status == "finished":
            finished.append(record)
        else:
            failed.append(RunOutcome(record.spec, record, path))
    return Results(tuple(finished), tuple(failed), tuple(problems))
