"""Into the published board: records that were checked, all that are given or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.errors import UserError, some_of
from epi_bench.results.leaderboard.configuration import group_by_configuration
from epi_bench.results.leaderboard.pages import write_rendered_files
from epi_bench.results.leaderboard.repetitions import pair_of, pairs_of
from epi_bench.results.leaderboard.store import load_finished, load_published, publish
from epi_bench.results.leaderboard.validation import record_files
from epi_bench.results.record.environment import knows_commit
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.track import TRAINING_PROTOCOL


@dataclass(frozen=True)
class Submission:
    """Records that were looked at; nothing is written yet.

    Attributes:
        board: The board that they are for.
        accepted: Those that may be published, by file.
        refused: Why each of the others may not, by file.
        notes: What a reader of the board should know, one line each.
    """

    board: Path
    accepted: Mapping[Path, RunRecord]
    refused: Mapping[Path, str]
    notes: tuple[str, ...]


def check_submission(paths: Sequence[Path], board: Path) -> Submission:
    """Look at records that are to be published.

    A record must be valid and of a finished run, made by the present training protocol from a
    commit that the board's repository has, without changed files; it must not be on the board; and
    its strategy must have every (seed, task order) pair of its track, so that all are compared over
    the same repetitions.

    Args:
        paths: Records, folders of runs, boards or folders of tracks.
        board: The published board; it need not be there yet.

    Raises:
        UserError: If there is no record in one of the places, or a file of the board is broken.
    """
    there = _records_on(board)
    accepted: dict[Path, RunRecord] = {}
    refused: dict[Path, str] = {}
    seen = {record.run_id: f"is on {board} already" for record in there}
    for path in _files(paths):
        try:
            record = load_finished(path)
        except UserError as error:
            refused[path] = str(error).removeprefix(f"{path}: ")
            continue
        reason = seen.get(record.run_id) or _reason(record, board)
        if reason is not None:
            refused[path] = f"run {record.run_id} {reason}"
            continue
        seen[record.run_id] = f"is given twice, also as {path}"
        accepted[path] = record
    incomplete = _incomplete(list(accepted.values()), there)
    for path, record in list(accepted.items()):
        if record.run_id in incomplete:
            refused[path] = f"run {record.run_id}: {incomplete[record.run_id]}"
            del accepted[path]
    return Submission(
        board, accepted, refused, tuple(_notes(list(accepted.values()), there, board))
    )


def publish_submission(submission: Submission) -> list[Path]:
    """Write the accepted records to the board and its tables anew.

    Returns:
        The files that were written or changed.

    Raises:
        UserError: If a file cannot be written; no record of the submission is on the board then.
    """
    written: list[Path] = []
    try:
        for record in submission.accepted.values():
            written.append(publish(record, submission.board))
        return [*written, *write_rendered_files(load_published(submission.board))]
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _records_on(board: Path) -> list[RunRecord]:
    if not board.is_dir() or not any(board.glob("*/*.json")):
        return []
    published = load_published(board)
    if published.problems:
        raise UserError(
            f"{published.problems[0]}; mend {board} first: epi-bench leaderboard validate {board}"
        )
    return [record for records in published.tracks.values() for record in records]


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        files = record_files(path)[0] if path.is_dir() else [path]
        if not files:
            raise UserError(f"no record in {path}: name records, a folder of runs or a board")
        found.update(dict.fromkeys(files))
    return list(found)


def _reason(record: RunRecord, board: Path) -> str | None:
    """Why a record may not be published; ``None`` if it may."""
    made = record.environment
    if record.track.facts.training_protocol != TRAINING_PROTOCOL:
        return (
            f"was trained by protocol {record.track.facts.training_protocol}; the present one is "
            f"{TRAINING_PROTOCOL}: make it again"
        )
    if made.git_sha is None:
        return "was made from no commit: make it from a checkout of epi-bench"
    if made.git_dirty is not False:
        return "was made from a checkout with changed files: commit them and make it again"
    if knows_commit(board, made.git_sha) is False:
        return f"was made from commit {made.git_sha[:12]}, which the repository of {board} lacks"
    return None


def _incomplete(given: Sequence[RunRecord], there: Sequence[RunRecord]) -> dict[str, str]:
    """Run id -> what its strategy lacks, for the given runs of strategies that lack something."""
    lacking: dict[str, str] = {}
    ids = {record.run_id for record in given}
    for track in {record.track.name for record in given}:
        records = [r for r in (*there, *given) if r.track.name == track]
        wanted = pairs_of(records)
        for label, group in group_by_configuration(records).items():
            missing = [pair for pair in wanted if pair not in {pair_of(r) for r in group}]
            if missing:
                seeds = some_of((f"seed {seed}" for seed, _ in missing), 8)
                reason = (
                    f"{label} lacks {len(missing)} of the {len(wanted)} (seed, task order) pairs "
                    f"that track {track} has: {seeds}"
                )
                lacking |= {r.run_id: reason for r in group if r.run_id in ids}
    return lacking


def _notes(given: Sequence[RunRecord], there: Sequence[RunRecord], board: Path) -> Iterator[str]:
    tracks = {record.track.name for record in there}
    processors = {(r.track.name, r.environment.processor) for r in there}
    commits = set()
    for record in given:
        track, processor = record.track.name, record.environment.processor
        if track not in tracks:
            tracks.add(track)
            processors.add((track, processor))
            yield f"track {track} is new on {board}"
        if (track, processor) not in processors:
            processors.add((track, processor))
            yield (
                f"{processor or 'an unnamed processor'} is new on track {track}: another kind of "
                "processor changes the last bits of sums, which training makes grow"
            )
        commits.add(record.environment.git_sha)
    unknown = [sha for sha in sorted(map(str, commits)) if knows_commit(board, sha) is None]
    if unknown:
        yield f"{board} lies in no git repository: commit {some_of(unknown)} was not looked up"
