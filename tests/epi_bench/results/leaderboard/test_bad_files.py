"""One bad file never takes a board down: it is named in a line, and the rest is ranked."""

from __future__ import annotations

import copy
import json
import os
import random
import sys
from pathlib import Path

import pytest

import epi_bench
from epi_bench.cli.app import main
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import (
    compare_with_others,
    load_published,
    load_track,
    publish,
    rank_track,
    to_csv,
    to_json,
)
from epi_bench.results.leaderboard.markdown import to_markdown
from epi_bench.results.masks.drift import find_records, mask_drift
from epi_bench.results.masks.trace import trace_mask
from epi_bench.results.record import record_file
from epi_bench.results.record.consistency import expected_run_id
from epi_bench.results.record.derivation import metrics_of
from epi_bench.results.record.items import pack_items
from epi_bench.results.record.run_record import RunRecord


@pytest.fixture
def bad_board(board, board_runs, make_run, monkeypatch):
    """The board with every kind of bad file in one track's folder, and what is said of each."""
    monkeypatch.setattr(record_file, "LARGEST_FILE", 200_000)
    folder = board / make_run().track.name
    content = board_runs[0].model_dump(mode="json")

    def write(name, text):
        (folder / name).write_text(text, encoding="utf-8")

    def write_changed(name, **changes):
        write(name, json.dumps({**content, **changes}))

    matrix = content["score_matrix"]
    write("integer.json", json.dumps(content).replace('"seed": 0', '"seed": 1' + "0" * 400))
    write("large.json", json.dumps(content).replace("10.0", "1e308"))
    write_changed("surrogate.json", error="\ud800")
    write_changed(
        "empty_matrix.json",
        score_matrix={
            **matrix,
            "rows": [],
            "values": [],
            "standard_errors": [],
            "columns": [],
            "n": [],
        },
    )
    write_changed(
        "columns.json",
        score_matrix={
            **matrix,
            "columns": [{**column, "task": f"x{column['task']}"} for column in matrix["columns"]],
        },
    )
    write_changed(
        "name.json",
        strategy={**content["strategy"], "name": "a\nb"},
        spec={**content["spec"], "strategy": {"name": "a\nb", "options": {}}},
    )
    write_changed("item.json", item_scores={"a": pack_items({"0": 1.0}), "b": "AAAA"})
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    write("huge.json", "[" + "0," * 150_000 + "0]")
    (folder / "binary.json").write_bytes(bytes(range(256)))
    write("empty.json", "")
    write("newer.json", json.dumps({**content, "schema_version": 2}))
    write("copy.json", json.dumps(content))
    write_changed("differs.json", moved_weights=0.5)
    write("other_track.json", json.dumps(make_run(stream="mixed").model_dump(mode="json")))
    return board, {
        "binary.json": "not a JSON file",
        "columns.json": "score_matrix.columns",
        "copy.json": "where the same run lies already",
        "differs.json": "where another record of this run gives other numbers",
        "empty.json": "not a JSON file",
        "empty_matrix.json": "score_matrix.rows is 0, but the record itself gives at least 2",
        "folder.json": "not a file",
        "huge.json": "more than 200,000 bytes",
        "integer.json": "an integer of 401 digits",
        "item.json": "packed item scores are damaged",
        "large.json": "1e308 is too large a number",
        "loop.json": "cannot read",
        "name.json": "a name of letters, digits and underscores",
        "newer.json": "upgrade epi-bench",
        "other_track.json": "is misplaced",
        "pipe.json": "not a file",
        "surrogate.json": "surrogates not allowed",
    }


def check_problems(problems, expected):
    assert len(problems) == len(expected)
    for line, (name, reason) in zip(problems, expected.items(), strict=True):
        assert name in line
        assert reason in line
        assert "\n" not in line


def test_each_is_told_in_a_line_and_the_rest_is_as_without_them(bad_board, board_runs):
    board, expected = bad_board
    published = load_published(board)
    check_problems(published.problems, expected)
    name = board_runs[0].track.name
    assert len(published.tracks) == 2
    found = {record.run_id: record for record in published.tracks[name]}
    assert found == {record.run_id: record for record in board_runs}
    check_problems(load_track(board / name).problems, expected)
    check_problems(epi_bench.load_results(board).problems, expected)
    check_problems(epi_bench.load_results(board / name).problems, expected)


@pytest.mark.parametrize(
    "command",
    [
        *(
            f"leaderboard {{board}} --format {kind}"
            for kind in ("table", "json", "csv", "markdown")
        ),
        "leaderboard {board} --update",
        "compare epi --board {track}",
        "compare epi --board {board} --track {name}",
        "inspect {track} --strategy epi",
        "plot balance --board {track} --out {board}/balance.svg",
    ],
)
def test_every_command_goes_on(command, bad_board, make_run, monkeypatch, capsys, masked_run):
    board, expected = bad_board
    name = make_run().track.name
    if command.startswith("inspect"):
        (board / name / f"{masked_run.run_id}.json").write_text(
            record_file.record_to_json(masked_run)
        )
        for word in ("copy", "differs", "other_track"):  # inspect looks at files, not at a board
            expected.pop(f"{word}.json")
            (board / name / f"{word}.json").unlink()
    words = command.format(board=board, track=board / name, name=name).split()
    monkeypatch.setattr(sys, "argv", ["epi-bench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    assert output.out
    lines = output.err.splitlines()
    assert all(line.startswith("epi-bench: warning: ") for line in lines)
    check_problems(lines, expected)


def test_a_folder_of_runs_with_bad_records(make_run, tmp_path):
    good = make_run()
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "record.json").write_text(record_file.record_to_json(good))
    (tmp_path / "b" / "record.json").write_text("{")
    os.mkfifo(tmp_path / "c" / "record.json")
    (tmp_path / "d" / "record.json").write_text(record_file.record_to_json(good))
    results = epi_bench.load_results(tmp_path)
    assert list(results) == [good]
    assert len(results.problems) == 3
    assert (
        f"run {good.run_id} counts once, as {tmp_path / 'a' / 'record.json'}"
        in (results.problems[2])
    )


def test_a_file_that_may_not_be_read(make_run, tmp_path, monkeypatch):
    path = publish(make_run(), tmp_path)
    secret = path.with_name("secret.json")
    secret.write_bytes(path.read_bytes())
    read_text = Path.read_text

    def read(self, **how):
        if self == secret:
            raise PermissionError(13, "Permission denied")
        return read_text(self, **how)

    monkeypatch.setattr(Path, "read_text", read)
    published = load_published(tmp_path)
    assert published.problems == (f"cannot read {secret}: Permission denied",)
    assert len(published.tracks) == 1


def test_a_file_that_is_named_itself_is_refused(make_run, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        find_records([tmp_path / "broken.json"], left_out=print)


ODD_VALUES = [None, -1, 0, 1e308, 1e99, -1e99, 1e-300, "", "a\nb", "[red]", "a" * 300, [], {}, 3.7,
              10**17, True]  # fmt: skip

FREE = ["cost", "secondary_scores", "secondary_standard_errors", "mask_statistics",
        "graded_protection", "retention",
        "moved_weights", "score_matrix", "losses", "metrics", "environment", "experiences",
        "task_data", "strategy", "spec"]  # fmt: skip
"""Parts of a record in which a value is replaced."""


def _places(value, path):
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _places(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _places(below, (*path, index))


def _put(content, place, value):
    *above, last = place
    for key in above:
        content = content[key]
    content[last] = value


def _make_fit(content):
    """Give a record the metrics and the id that follow from the rest, where that can be."""
    try:
        record = RunRecord.model_validate(content)
        content["metrics"] = metrics_of(
            record.score_matrix, record.gradient_conflict, record.retention, record.reference_scores
        )
        content["run_id"] = expected_run_id(record)
    except (ArithmeticError, LookupError, ValueError):
        return


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_loaded_can_be_shown(masked_run, make_run, tmp_path, seed):
    """Boards of three runs, two of them with a value replaced and an id and metrics that fit it."""
    draws = random.Random(seed)
    more = {
        "secondary_scores": {"a": {"loss": 1.0, "f1": 0.5}, "b": {"acc": 0.5}},
        "secondary_standard_errors": {"a": {"loss": 0.1}},
        "task_data": {"a": {"train_examples": 3, "test_examples": 4, "answers_cut": {"a": 1}}},
        "losses": [{"step": 1, "loss": 2.0}],
        "retention": {"nll_before": 1.0, "nll_after": 1.5, "tokens": 9},
        "moved_weights": 0.5,
    }
    runs = [masked_run, make_run("ewc"), make_run("ewc", seed=1)]
    contents = [{**run.model_dump(mode="json"), **more} for run in runs]
    ranked = left_out = 0
    for number in range(80):
        changed = copy.deepcopy(contents)
        place = draws.choice(list(_places({k: changed[1][k] for k in FREE}, ()))[1:])
        odd = draws.choice(ODD_VALUES)
        for content in changed[1:] if draws.random() < 0.5 else [changed[0], changed[2]]:
            try:
                _put(content, place, odd)
            except (LookupError, TypeError):
                continue
        for content in changed:
            _make_fit(content)
        board = tmp_path / str(number)
        for content in changed:
            file = board / runs[0].track.name / f"{content['run_id']}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        published = load_published(board)
        left_out += len(published.problems)
        for records in published.tracks.values():
            ranking = rank_track(records)
            for text in (to_csv([ranking]), to_json([ranking]), to_markdown(ranking)):
                assert "Infinity" not in text
            if len(ranking.entries) > 1:
                compare_with_others(records, ranking.entries[0].label)
            ranked += len(records)
            for record in records:
                try:
                    mask_drift([trace_mask(record)])
                except UserError:
                    continue
    assert left_out > 20
    assert ranked > 80 + 10  # the unchanged one of each board, and more
