"""Where a run's files lie, and what is left of an earlier try."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.record.workspace import Workspace, require_writable


def test_a_run_begins_without_results_of_an_earlier_try(tmp_path):
    workspace = Workspace(tmp_path)
    folder = workspace.run_folder("abc")
    folder.mkdir(parents=True)
    kept = folder / "notes.txt"
    for path in (workspace.record_path("abc"), workspace.predictions_path("abc"), kept):
        path.write_text("of an earlier try")
    workspace.begin("abc", "seed = 3\n")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "run.toml"]
    assert (folder / "run.toml").read_text() == "seed = 3\n"
    assert kept.read_text() == "of an earlier try"
    assert workspace.finished_record("abc") is None


def test_a_first_try_makes_the_folder(tmp_path):
    workspace = Workspace(tmp_path / "not" / "there" / "yet")
    workspace.begin("abc", "")
    assert workspace.run_folder("abc").is_dir()


@pytest.mark.parametrize("folder", ["x" * 300, "x" * 300 + "/below"])
def test_a_name_that_no_file_system_takes_is_refused_with_the_argument(tmp_path, folder):
    with pytest.raises(UserError, match="choose another folder with save_model"):
        require_writable(tmp_path / folder, "the model", "save_model")
