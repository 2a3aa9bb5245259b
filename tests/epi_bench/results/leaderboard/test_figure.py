"""Figures of a track."""

from __future__ import annotations

import sys

import pytest

from epi_bench.errors import UserError
from epi_bench.results.leaderboard import figure


def is_drawn(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.fixture
def track(make_run):
    return [
        make_run("epi", (60, 80)),
        make_run("epi", (40, 80), seed=1, order=("b", "a")),
        make_run("ewc", (20, 80)),
        make_run("sft", (5, 80)),
    ]


def test_a_matrix_is_the_mean_of_the_runs_by_position(track):
    found = figure._mean_matrix("epi", track[:2])
    assert found == [[0, 25], [70, 20], [50, 80]]


def test_a_score_that_no_run_has_is_no_zero(make_run):
    run = make_run()
    values = [[None, 25.0], [70.0, 20.0], [60.0, 80.0]]
    matrix = run.score_matrix.model_copy(update={"values": tuple(map(tuple, values))})
    run = run.model_copy(update={"score_matrix": matrix})
    assert figure._mean_matrix("epi", [run])[0] == [None, 25]
    assert figure._mean_matrix("epi", [run, make_run(seed=1)])[0] == [0, 25]


def test_tasks_that_were_never_trained_come_last_and_are_marked(make_run, tmp_path):
    pytest.importorskip("matplotlib")
    track = [make_run("epi", (60, 80), kept=48), make_run("epi", (40, 80), seed=1, kept=44)]
    found = figure._mean_matrix("epi", track)
    assert found == [[0, 25, 50, 40], [70, 20, 45, 41], [50, 80, 46, 40]]
    assert figure._eval_names(track) == ["c (eval)", "d (eval)"]
    figure.draw_score_matrices(track, ["epi"], tmp_path / "matrix.png")
    assert is_drawn(tmp_path / "matrix.png")


def test_tasks_are_named_where_all_runs_have_one_order(track):
    assert figure._task_names(track) == ["task 1", "task 2"]
    assert figure._task_names(track[2:]) == ["a", "b"]


@pytest.mark.parametrize("strategies", [["epi"], ["ewc", "sft"]])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_score_matrices_are_drawn(track, strategies, theme, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "matrices.png"
    figure.draw_score_matrices(track, strategies, path, theme)
    assert is_drawn(path)
    first = path.read_bytes()
    figure.draw_score_matrices(track, strategies, path, theme)
    assert path.read_bytes() == first


def test_a_figure_is_readable_at_the_width_of_a_page(track, tmp_path):
    """830 pixels wide at 100 an inch: letters of 10 points are 14 pixels high."""
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "matrices.png"
    figure.draw_score_matrices(track, ["epi", "ewc"], path)
    with image.open(path) as picture:
        assert picture.width == 2 * 830
        assert picture.getpixel((1, 1))[3] == 0  # transparent


def test_the_balance_is_drawn(track, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "balance.png"
    figure.draw_balance(track, ["epi"], path, "dark")
    assert is_drawn(path)


def test_what_cannot_be_drawn_is_said(track, make_run, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    with pytest.raises(UserError, match="3 score matrices beside each other cannot be read"):
        figure.draw_score_matrices(track, ["epi", "ewc", "sft"], path)
    with pytest.raises(UserError, match="unknown strategy of this track 'epy'"):
        figure.draw_score_matrices(track, ["epy"], path)
    with pytest.raises(UserError, match=r"must end in \.png, \.svg, \.pdf"):
        figure.draw_score_matrices(track, ["epi"], tmp_path / "figure.jpeg")
    with pytest.raises(UserError, match="they need a stream that trains the tasks one after"):
        figure.draw_balance([make_run(stream="mixed")], [], path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        figure.draw_score_matrices(track, ["epi"], tmp_path / "file" / "figure.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "epi-bench\[plot\]"'):
        figure.draw_score_matrices(track, ["epi"], path)
    assert not path.exists()


def test_the_command_draws_into_the_file(track, tmp_path):
    import typer.testing

    from epi_bench.cli.plot import plot_app
    from epi_bench.results.leaderboard import publish

    pytest.importorskip("matplotlib")
    for run in track:
        board = publish(run, tmp_path).parent
    for arguments in (["matrix", "epi", "sft"], ["balance"]):
        path = tmp_path / f"{arguments[0]}.png"
        result = typer.testing.CliRunner().invoke(
            plot_app, [*arguments, "--board", str(board), "--out", str(path), "--theme", "dark"]
        )
        assert result.exit_code == 0, result.exception
        assert is_drawn(path)
