"""What a run's results look like on screen: each number once, on one scale."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from epi_bench.cli.summary import print_outcomes, print_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.request import RunOutcome
from epi_bench.spec.defaults import complete_spec


@pytest.fixture
def rows(make_run):
    def print_rows(**changes):
        record = make_run(scores=(40.5, 80.0), **changes)
        console = Console(width=200, record=True, file=StringIO())
        print_record(RunOutcome(record.spec, record, Path("record.json")), console)
        table = console.export_text().split("All metrics of the tasks, at the end")[1]
        cells = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
        return {(row[0], row[1]): row[2:] for row in cells if len(row) == 5 and row[0] != "task"}

    return print_rows


def test_every_share_is_shown_on_the_scale_of_the_score_matrix(rows):
    shown = rows(
        secondary_scores={
            "a": {"exact_match": 0.405, "rouge_l": 0.25, "reference_negative_log_likelihood": 1.5},
            "b": {"acc": 0.8, "acc_norm": 0.8125, "judge": 7.25},
        },
        secondary_standard_errors={"a": {"exact_match": 0.01, "rouge_l": 0.031}},
    )
    assert shown == {
        ("a", "exact_match"): ["40.5", "1.0", "0 to 100"],
        ("a", "rouge_l"): ["25.0", "3.1", "0 to 100"],
        ("a", "reference_negative_log_likelihood"): ["1.500", "–", "nats a token"],
        ("b", "acc"): ["80.0", "2.0", "0 to 100"],
        ("b", "acc_norm"): ["81.2", "–", "0 to 100"],
        ("b", "judge"): ["7.250", "–", "0 to 10"],
    }


def test_labels_have_their_balanced_accuracy_and_matrix(rows, capsys, make_run):
    confusion = {"b": {"labels": ["no", "[red]"], "counts": [[3, 1], [2, 2]]}}
    shown = rows(secondary_scores={"b": {"acc": 0.8}}, confusion=confusion)
    assert shown["b", "balanced_acc"] == ["62.5", "–", "0 to 100"]
    record = make_run(secondary_scores={"b": {"acc": 0.8}}, confusion=confusion)
    print_record(RunOutcome(record.spec, record, Path("record.json")), Console(width=200))
    printed = capsys.readouterr().out
    assert "b: right label, and which was chosen" in " ".join(printed.split())
    cells = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["no", "3", "1"] in cells
    assert ["[red]", "2", "2"] in cells  # a label is shown as text


def test_the_primary_metric_is_the_score_whatever_its_range(rows):
    # A metric from -1 to 1, say: the record keeps it as the task gives it.
    shown = rows(secondary_scores={"a": {"exact_match": -0.19}})
    assert shown["a", "exact_match"] == ["40.5", "1.0", "0 to 100"]


def test_a_metric_that_is_no_share_is_shown_in_its_unit(rows):
    shown = rows(
        secondary_scores={"a": {"answer_length": 0.5}},
        secondary_standard_errors={"a": {"answer_length": 0.125}},
        secondary_units={"a": {"answer_length": "words [of prose]"}},
    )
    assert shown["a", "answer_length"] == ["0.500", "0.125", "words [of prose]"]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_name_and_no_number_is_cut(make_run, width):
    tasks = ("mini_instruct_reversed", "mini_chat_with_a_long_name")
    record = make_run(scores=(40.5, 80.0))
    matrix = record.score_matrix
    columns = [
        column.model_copy(update={"task": name})
        for column, name in zip(matrix.columns, tasks, strict=True)
    ]
    record = record.model_copy(
        update={
            "score_matrix": matrix.model_copy(
                update={"rows": ("base", *tasks), "columns": tuple(columns)}
            ),
            "task_order": tasks,
            "secondary_scores": {tasks[0]: {"reference_negative_log_likelihood": 1.5}},
        }
    )
    console = Console(width=width, file=StringIO())
    print_record(RunOutcome(record.spec, record, Path("record.json")), console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for word in (*tasks, "reference_negative_log_likelihood", "40.5", "80.0", "60.2"):
        assert word in words
    assert "…" not in text


def test_tasks_that_were_never_trained_are_marked_in_the_matrix(make_run):
    record = make_run(kept=48.0, secondary_scores={"c": {"acc": 0.48, "acc_norm": 0.5}})
    console = Console(width=100, file=StringIO())
    print_record(RunOutcome(record.spec, record, Path("record.json")), console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["after", "a", "b", "c", "(eval)", "d", "(eval)"] in lines
    assert ["b", "60.0", "80.0", "48.0", "40.0"] in lines
    assert ["c", "acc", "48.0", "1.0", "0", "to", "100"] in lines
    assert "(eval): scored, never trained" in console.file.getvalue()


def test_runs_with_eval_tasks_are_listed_with_what_they_kept(make_run, tmp_path):
    record = make_run(kept=48.0)
    outcomes = [RunOutcome(record.spec, record, tmp_path)]
    console = Console(width=100, file=StringIO())
    print_outcomes(outcomes, Workspace(tmp_path), console)
    assert "task retention" in console.file.getvalue()
    assert "-1.0" in console.file.getvalue().split()


def test_the_ranking_is_shown_where_there_is_one(tmp_path):
    """Not if no run could start, or none was published."""

    def shown():
        console = Console(width=100, record=True, file=StringIO())
        outcomes = [RunOutcome(complete_spec({}), None, error="no such model")] * 2
        print_outcomes(outcomes, Workspace(tmp_path), console)
        return console.export_text()

    assert shown().count("not started") == 2
    assert "Ranking" not in shown()
    (tmp_path / "results").mkdir()
    assert f"epi-bench leaderboard {tmp_path / 'results'}" in shown()
