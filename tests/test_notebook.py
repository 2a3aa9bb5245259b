"""The notebook of the documentation, executed as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "compare.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """For each code cell its source and its outputs, by MIME type."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    client.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    assert not list(folder.iterdir())  # results go where the notebook says
    return [(cell.source, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def output_of(outputs, source):
    return next(found for text, found in outputs if text.startswith(source))


def data_of(found, kind):
    return [output["data"][kind] for output in found if kind in output.get("data", {})]


@pytest.mark.slow
def test_the_results_are_shown_as_a_ranking(outputs):
    found = output_of(outputs, "results = epi_bench.compare")
    ranking = data_of(found, "text/html")[-1]
    assert ranking.count("<tr>") == 3
    assert "average accuracy" in ranking
    assert "epi" in ranking


@pytest.mark.slow
def test_progress_is_one_output_that_leaves_nothing_torn(outputs):
    """A display that is rewritten in place, and the result; no stray lines, bars or widgets."""
    found = output_of(outputs, "results = epi_bench.compare")
    kinds = [output["output_type"] for output in found]
    assert kinds == ["display_data", "execute_result"]
    assert "<progress" not in data_of(found, "text/html")[0]
    for _, cell in outputs:
        assert not [o for o in cell if o.get("name") == "stderr"], cell


@pytest.mark.slow
def test_the_difference_the_frames_and_the_figure_are_there(outputs):
    assert "mean_difference" in data_of(output_of(outputs, "results.diff"), "text/plain")[0]
    assert "learning_accuracy" in data_of(output_of(outputs, "runs ="), "text/html")[0]
    assert data_of(output_of(outputs, "import matplotlib"), "image/png")


@pytest.mark.slow
def test_a_strategy_of_a_cell_runs_and_is_checked(outputs):
    checks = data_of(output_of(outputs, "from epi_bench.testing"), "text/plain")[0]
    assert "determinism" in checks
    ranking = data_of(output_of(outputs, 'epi_bench.compare(["half'), "text/html")[-1]
    assert "half_gradients" in ranking
