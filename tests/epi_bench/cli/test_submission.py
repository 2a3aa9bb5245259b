"""``leaderboard submit``: what is checked before records are published, all or none."""

from __future__ import annotations

import subprocess

import pytest
from typer.testing import CliRunner

from epi_bench.cli.leaderboard import leaderboard_app
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import load_published, publish
from epi_bench.results.leaderboard import submission as submissions
from epi_bench.results.record.consistency import expected_run_id
from epi_bench.results.record.record_file import save_record


@pytest.fixture
def repository(tmp_path):
    """A git repository and its commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return folder, commit.stdout.strip()


@pytest.fixture
def board(repository):
    return repository[0] / "leaderboards"


@pytest.fixture
def made(make_run, repository, tmp_path):
    """Makes a run of a clean checkout at the repository's commit, and its folder."""

    def make(*arguments, protocol=2, **keywords):
        environment = {"git_sha": repository[1], "git_dirty": False}
        changes = {k: keywords.pop(k) for k in tuple(keywords) if k in environment}
        record = make_run(*arguments, **keywords)
        record = record.model_copy(
            update={"environment": record.environment.model_copy(update=environment | changes)}
        )
        if protocol != 2:
            record = _of_protocol(record, protocol)
        folder = tmp_path / "runs" / record.run_id
        save_record(record, folder / "record.json")
        return record, folder

    return make


def _of_protocol(record, protocol):
    from epi_bench.results.record.track import make_track

    facts = record.track.facts.model_copy(update={"training_protocol": protocol})
    record = record.model_copy(update={"track": make_track(facts)})
    return record.model_copy(update={"run_id": expected_run_id(record)})


@pytest.fixture
def submit(board):
    def call(*paths):
        words = ["submit", *map(str, paths), "--board", str(board)]
        return CliRunner().invoke(leaderboard_app, words)

    return call


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_records_are_copied_and_the_tables_written(submit, made, board):
    runs = [made(seed=seed) for seed in (0, 1)]
    result = submit(*(folder for _, folder in runs))
    assert result.exit_code == 0, result.exception
    track = runs[0][0].track.name
    published = load_published(board)
    assert {r.run_id for r in published.tracks[track]} == {r.run_id for r, _ in runs}
    assert {p.name for p in (board / track).iterdir()} == {
        "README.md", "results.csv", *(f"{record.run_id}.json" for record, _ in runs)
    }  # fmt: skip
    assert "epi" in (board / track / "README.md").read_text()
    assert result.stdout.count("wrote ") == 5
    assert f"note: track {track} is new" in result.stderr


def test_a_folder_of_runs_is_submitted_whole(submit, made, board, tmp_path):
    for seed in (0, 1):
        made(seed=seed)
    assert submit(tmp_path / "runs").exit_code == 0
    assert sum(map(len, load_published(board).tracks.values())) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"git_dirty": True}, "was made from a checkout with changed files"),
        ({"git_dirty": None}, "was made from a checkout with changed files"),
        ({"git_sha": None}, "was made from no commit"),
        ({"git_sha": "0" * 40}, "was made from commit 000000000000, which the repository of"),
        ({"git_sha": "--help"}, "was made from commit --help, which the repository of"),
        ({"protocol": 1}, "was trained by protocol 1; the present one is 2"),
    ],
)
def test_what_is_refused_with_its_reason(submit, made, board, changes, reason):
    _, good = made(seed=0)
    record, bad = made(seed=1, **changes)
    result = submit(good, bad)
    assert isinstance(result.exception, UserError)
    assert "nothing was published: 1 of 2 record(s) refused" in str(result.exception)
    assert f"refused {bad}/record.json: run {record.run_id} {reason}" in result.stderr
    assert not board.exists()


def test_invalid_and_failed_records_are_refused(submit, made, board):
    _, broken = made(seed=0)
    (broken / "record.json").write_text("{")
    result = submit(broken)
    assert f"refused {broken}/record.json: not a JSON file" in result.stderr
    failed = {"status": "failed", "error": "x", "score_matrix": None, "metrics": {}, "cost": None}
    _, folder = made(seed=1, **failed)
    assert "the run failed, so it is not ranked" in submit(folder).stderr
    assert not board.exists()


def test_a_record_is_published_once(submit, made, board):
    record, folder = made()
    assert submit(folder).exit_code == 0
    before = tree(board)
    assert f"run {record.run_id} is on {board} already" in submit(folder).stderr
    _, again = made(seed=1)
    elsewhere = again.parent.parent / "copy"
    elsewhere.mkdir()
    (elsewhere / "record.json").write_bytes((again / "record.json").read_bytes())
    assert "is given twice, also as" in submit(again, elsewhere).stderr
    assert tree(board) == before


def test_a_strategy_needs_every_pair_of_its_track(submit, made, board):
    epi = [made(seed=seed)[1] for seed in (0, 1, 2)]
    assert submit(*epi).exit_code == 0
    before = tree(board)
    ewc = [made("ewc", seed=seed)[1] for seed in (0, 1)]
    result = submit(*ewc)
    assert "ewc lacks 1 of the 3 (seed, task order) pairs" in result.stderr
    assert ": seed 2" in result.stderr
    assert result.stderr.count("refused ") == 2
    assert tree(board) == before
    assert submit(*ewc, made("ewc", seed=2)[1]).exit_code == 0


def test_a_board_with_faults_is_mended_first(submit, made, board):
    assert submit(made()[1]).exit_code == 0
    (board / "x").mkdir()
    (board / "x" / "broken.json").write_text("")
    error = submit(made(seed=1)[1]).exception
    assert isinstance(error, UserError)
    assert "epi-bench leaderboard validate" in str(error)


def test_when_writing_fails_no_record_stays(submit, made, board, monkeypatch):
    assert submit(made()[1]).exit_code == 0
    before = {path for path in tree(board) if path.suffix == ".json"}

    enough_space = iter((True, False))

    def publish_one(record, root):
        if not next(enough_space):
            raise UserError("cannot write: no space left on device")
        return publish(record, root)

    monkeypatch.setattr(submissions, "publish", publish_one)
    result = submit(*(made("ewc", seed=0, options={"ratio": r})[1] for r in (0.1, 0.2)))
    assert "no space left" in str(result.exception)
    assert {path for path in tree(board) if path.suffix == ".json"} == before


def test_outside_a_repository_it_is_said_that_the_commit_was_not_looked_up(
    made, tmp_path, monkeypatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    _, folder = made()
    words = ["submit", str(folder), "--board", str(tmp_path / "board")]
    result = CliRunner().invoke(leaderboard_app, words)
    assert result.exit_code == 0
    assert "was not looked up" in result.stderr
