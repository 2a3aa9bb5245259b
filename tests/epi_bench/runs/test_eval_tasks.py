"""Tasks that are scored whenever the trained ones are, and never trained."""

from __future__ import annotations

from statistics import fmean

import pytest

from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_file
from epi_bench.results.leaderboard.validation import validate_records
from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.items import unpack_items
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.known_runs import KnownRuns
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec

EVAL = ("toy_choice", "toy_second")
TRAINED = ["toy_first"]

TEST_ONLY = """
from epi_bench import Task, TaskCard, register_task
from epi_bench.task.task import create_task


@register_task("toy_exam")
class ToyExam(Task):
    card = TaskCard("an exam", "toy", "teacher_forced", "exact_match", "Apache-2.0")

    def __init__(self, data_dir=None, first=5):
        super().__init__(data_dir)
        self.first = first

    def examples(self, split):
        if split == "train":
            raise RuntimeError("there is no training split")
        return create_task("toy_first").examples("train")[: self.first]
"""


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    """A task without a training split; its test examples are what ``toy_first`` trains on."""
    path = tmp_path_factory.mktemp("exam") / "exam.py"
    path.write_text(TEST_ONLY)
    load_plugin_file(path)
    return "toy_exam"


def test_they_have_a_matrix_of_their_own_and_change_no_other_number(run_toy, tmp_path):
    outcome = run_toy("epi", tasks=TRAINED, eval_tasks=EVAL)
    record, plain = outcome.record, run_toy("epi", tasks=TRAINED, out=tmp_path / "plain").record
    scores = record.eval_scores
    assert scores.rows == record.score_matrix.rows == ("base", "toy_first")
    assert [column.task for column in scores.columns] == list(EVAL)
    assert [column.metric for column in scores.columns] == ["acc", "exact"]
    assert scores.n == (14, 14)
    for position, name in enumerate(EVAL):
        items = unpack_items(scores.item_scores[name])
        assert scores.values[-1][position] == pytest.approx(fmean(items.values()))
    assert record.task_order == ("toy_first",)
    assert set(record.item_scores) == {"toy_first"}
    assert record.scored_tasks == ("toy_first", *EVAL)
    assert record.score_matrix == plain.score_matrix
    assert record.losses == plain.losses
    assert record.retention == plain.retention
    changes = [after - before for before, after in zip(*scores.values, strict=True)]
    assert record.metrics["task_retention"] == pytest.approx(fmean(changes))
    assert record.metrics["worst_task_retention"] == pytest.approx(min(changes))
    others = {k: v for k, v in record.metrics.items() if "task_retention" not in k}
    assert others == plain.metrics
    assert plain.eval_scores is None
    assert record.track.name != plain.track.name
    assert load_record(outcome.path) == record


def test_a_task_is_either_trained_or_an_eval_task():
    with pytest.raises(UserError, match=r"'gsm8k' is trained .*leave it out of data.eval_tasks"):
        complete_spec({"data": {"tasks": ["gsm8k"], "eval_tasks": ["logiqa", "gsm8k"]}})
    with pytest.raises(UserError, match="an eval task is listed twice in logiqa, logiqa"):
        complete_spec({"data": {"tasks": ["gsm8k"], "eval_tasks": ["logiqa", "logiqa"]}})


def test_no_training_split_is_needed_and_what_is_trained_of_the_test_is_told(run_toy, exam):
    heard = []

    class Listener(RunObserver):
        def warning(self, message):
            heard.append(message)

    record = run_toy(tasks=TRAINED, eval_tasks=[exam], observer=Listener()).record
    data = record.task_data[exam]
    assert (data.train_examples, data.test_examples) == (0, 5)
    assert (data.test_prompts_trained, data.test_examples_trained) == (5, 5)
    assert (
        "task 'toy_exam': 5 of 5 test prompts are in the training split of 'toy_first' too, "
        "5 with the same answer" in heard
    )


def test_their_options_make_other_runs_and_other_tracks(toy_spec, run_toy, exam, tmp_path):
    spec = toy_spec(tasks=TRAINED, eval_tasks=[exam])
    data = spec.data.model_copy(update={"options": {exam: {"first": 3}}})
    fewer = spec.model_copy(update={"data": data})
    workspace = Workspace(tmp_path)
    from epi_bench.runs.launch import run_one

    one, other = (run_one(s, RunRequest(workspace), RunObserver()) for s in (spec, fewer))
    assert one.record.run_id != other.record.run_id
    assert one.record.track.name != other.record.track.name
    assert (one.record.eval_scores.n, other.record.eval_scores.n) == ((5,), (3,))
    assert disagreements(other.record) == []
    found = KnownRuns(RunRequest(workspace)).find(fewer)
    assert found.skipped
    assert found.record == other.record


def test_single_task_references_are_shared_with_runs_without_them(toy_spec):
    spec, plain = toy_spec(eval_tasks=["toy_choice"]), toy_spec()
    assert reference_spec(spec, "toy_first") == reference_spec(plain, "toy_first")


@pytest.mark.parametrize(
    ("event", "what"),
    [("scored", "base"), ("step", 4), ("scored", "toy_first")],
)
def test_interrupted_equals_uninterrupted(run_toy, tmp_path, event, what):
    class Stop(RunObserver):
        def step_done(self, report):
            self.meet("step", report.number)

        def scored(self, row, scores):
            self.meet("scored", row)

        def meet(self, *met):
            if met == (event, what):
                raise KeyboardInterrupt

    request = {"checkpoints": CheckpointSettings(every_steps=1), "log_predictions": True}
    asked = {"tasks": TRAINED, "eval_tasks": EVAL, "request": request}
    with pytest.raises(KeyboardInterrupt):
        run_toy("epi", observer=Stop(), **asked)
    resumed = run_toy("epi", **asked)
    whole = run_toy("epi", out=tmp_path / "whole", **asked)
    assert resumed.record.environment.resumed == 1
    assert comparable(resumed.record) == comparable(whole.record)
    said = [o.path.with_name("predictions.jsonl").read_text() for o in (resumed, whole)]
    assert said[0] == said[1]
    assert all(name in said[0] for name in EVAL)


def test_a_record_that_contradicts_itself_is_found(run_toy):
    outcome = run_toy(tasks=TRAINED, eval_tasks=EVAL)
    assert validate_records(outcome.path).findings == ()
    content = outcome.record.model_dump(mode="json")
    scores = content["eval_scores"]
    values = [scores["values"][0], [150.0, 0.0]]
    for wrong, field in [
        ({"metrics": {**content["metrics"], "task_retention": 77.0}}, "metrics.task_retention"),
        ({"eval_scores": None}, "eval_scores"),
        ({"eval_scores": {**scores, "rows": ["base", "x"]}}, "eval_scores.rows"),
        ({"eval_scores": {**scores, "values": values}}, "eval_scores.values.toy_first"),
        (
            {"eval_scores": {**scores, "columns": scores["columns"][::-1]}},
            "eval_scores.columns",
        ),
        (
            {"eval_scores": {**scores, "n": [13, 14]}},
            "eval_scores.item_scores.toy_choice",
        ),
    ]:
        found = disagreements(RunRecord.model_validate({**content, **wrong}))
        assert field in [disagreement.field for disagreement in found]
