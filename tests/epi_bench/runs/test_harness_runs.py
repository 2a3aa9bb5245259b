"""Runs with tasks of lm-evaluation-harness that are scored and never trained."""

from __future__ import annotations

import json

import pytest
import torch

import epi_bench
from epi_bench.errors import UserError
from epi_bench.evaluation.evaluator import evaluator_of
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.load import load_backbone
from epi_bench.model.location import locate_model
from epi_bench.results.leaderboard.validation import validate_records
from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.items import unpack_items
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.child import make_ordered_run
from epi_bench.runs.known_runs import KnownRuns
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.order import Order, order_from_json
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.request import RunRequest
from epi_bench.task import harness_task
from epi_bench.task.task import create_task

EVAL = ("lm_eval:epi_words", "toy_choice", "lm_eval:epi_writes")
ASKED = {"tasks": ["toy_first"], "eval_tasks": EVAL, "steps": 3}


@pytest.fixture
def harness_spec(toy_spec, harness_folder):
    """A toy specification with eval tasks of both kinds."""

    def make(strategy="full_sft", **data):
        spec = toy_spec(strategy, **ASKED)
        return spec.model_copy(update={"data": spec.data.model_copy(update=data)})

    return make


def test_they_stand_beside_the_others_and_change_no_other_number(
    harness_spec, run_toy, harness_folder, tmp_path
):
    spec = harness_spec("epi")
    request = RunRequest(Workspace(tmp_path), log_predictions=True, lm_eval_path=harness_folder)
    outcome = run_one(spec, request, RunObserver())
    record, scores = outcome.record, outcome.record.eval_scores
    plain = run_toy("epi", **{**ASKED, "eval_tasks": ()}, out=tmp_path / "plain").record
    assert [column.task for column in scores.columns] == list(EVAL)
    assert [column.metric for column in scores.columns] == ["acc_norm", "acc", "exact_match,first"]
    assert scores.n == (12, 14, 12)
    assert record.score_matrix == plain.score_matrix
    assert record.losses == plain.losses
    assert record.retention == plain.retention
    assert disagreements(record) == []
    assert validate_records(outcome.path).findings == ()
    assert load_record(outcome.path) == record
    facts = record.track.facts.eval_tasks["lm_eval:epi_words"]
    assert (facts.scoring, facts.metric) == ("lm_eval", "acc_norm")
    assert set(record.secondary_scores["lm_eval:epi_words"]) == {"acc", "acc_norm"}
    assert f'lm_eval_path = "{harness_folder}"' in outcome.path.with_name("run.toml").read_text()
    lines = outcome.path.with_name("predictions.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    counted = [line["task"] for line in said]
    assert [counted.count(name) for name in EVAL] == [12, 14, 12]
    items = unpack_items(scores.item_scores["lm_eval:epi_words"])
    measured = [100 * x["metrics"]["acc_norm"] for x in said if x["task"] == "lm_eval:epi_words"]
    assert list(items.values()) == measured


def test_the_base_row_is_what_the_base_model_scores(harness_spec, harness_folder, tmp_path):
    spec = harness_spec()
    record = run_one(spec, RunRequest(Workspace(tmp_path)), RunObserver()).record
    backbone = load_backbone(spec.model, locate_model(spec.model))
    task = create_task("lm_eval:epi_words")
    encoder = ChatEncoder(backbone.tokenizer, 64)
    with torch.no_grad():
        alone = evaluator_of(task, task.examples("test"), encoder, 8).score(backbone.model)
    assert record.eval_scores.values[0][0] == pytest.approx(alone.mean)


def test_fewer_items_and_options_make_other_runs(harness_spec):
    specs = [
        harness_spec(),
        harness_spec(test_examples=5),
        harness_spec(options={"lm_eval:epi_words": {"num_fewshot": 2}}),
        harness_spec(options={"lm_eval:epi_words": {"metric": "acc"}}),
    ]
    prepared = [prepare_run(spec) for spec in specs]
    assert len({made.run_id for made in prepared}) == len(specs)
    assert len(prepared[1].eval_tasks["lm_eval:epi_words"].test) == 5


def test_a_model_can_be_scored_by_itself(harness_folder, toy_model, toy_tasks):
    names = ["lm_eval:epi_words", "toy_choice"]
    folder = harness_folder
    found = epi_bench.evaluate(toy_model, names, test_examples=9, lm_eval_path=folder)
    assert list(found) == names
    alone = epi_bench.evaluate(toy_model, names[0], test_examples=9)
    assert alone[names[0]].items == found[names[0]].items
    assert len(found[names[0]].items) == 9


@pytest.mark.parametrize("strategy", ["lora", "wise_ft"])
def test_the_model_is_scored_as_it_would_be_saved(harness_spec, tmp_path, strategy):
    spec = harness_spec(strategy, eval_tasks=("lm_eval:epi_words",))
    folder = tmp_path / "model"
    request = RunRequest(Workspace(tmp_path), save_model=folder)
    record = run_one(spec, request, RunObserver()).record
    saved = spec.model_copy(update={"model": spec.model.model_copy(update={"name": str(folder)})})
    backbone = load_backbone(saved.model, locate_model(saved.model))
    task = create_task("lm_eval:epi_words")
    evaluator = evaluator_of(task, task.examples("test"), ChatEncoder(backbone.tokenizer, 64), 8)
    assert record.eval_scores.values[-1][0] == pytest.approx(evaluator.score(backbone.model).mean)


@pytest.mark.parametrize("point", [("scored", "base"), ("step", 2)])
def test_interrupted_equals_uninterrupted(harness_spec, tmp_path, point):
    class Stop(RunObserver):
        def step_done(self, report):
            self.meet("step", report.number)

        def scored(self, row, scores):
            self.meet("scored", row)

        def meet(self, *met):
            if met == point:
                raise KeyboardInterrupt

    text = tmp_path / "text.txt"
    text.write_text("red green blue one two three " * 3)
    options = {"lm_eval:epi_words": {"num_fewshot": 2}}
    spec = harness_spec("epi", general_text=str(text), options=options)

    def made(folder, observer=None):
        asked = {"checkpoints": CheckpointSettings(every_steps=1), "log_predictions": True}
        request = RunRequest(Workspace(tmp_path / folder), **asked)
        return run_one(spec, request, observer or RunObserver())

    with pytest.raises(KeyboardInterrupt):
        made("a", Stop())
    resumed, whole = made("a"), made("b")
    assert resumed.record.environment.resumed == 1
    assert comparable(resumed.record) == comparable(whole.record)
    said = [o.path.with_name("predictions.jsonl").read_text() for o in (resumed, whole)]
    assert said[0] == said[1]


def test_another_process_finds_the_folder_and_a_finished_run_is_found(
    harness_spec, harness_folder, toy_tasks, tmp_path, monkeypatch
):
    spec = harness_spec(eval_tasks=("lm_eval:epi_words",))
    request = RunRequest(Workspace(tmp_path), plugins=(toy_tasks,), lm_eval_path=harness_folder)
    order = order_from_json(Order(spec, request).to_json())
    monkeypatch.setattr(harness_task, "_FOLDERS", [])  # as in a process that has just begun
    outcome = make_ordered_run(order, RunObserver())
    assert outcome.succeeded, outcome.reason
    assert KnownRuns(request).find(spec).record == outcome.record


def test_a_missing_task_is_told_before_anything_is_written(harness_spec, tmp_path):
    spec = harness_spec(eval_tasks=("lm_eval:epi_perplexity",))
    with pytest.raises(UserError, match="gives no score"):
        run_one(spec, RunRequest(Workspace(tmp_path / "out")), RunObserver())
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
def test_rows_of_a_published_data_set(real_data, toy_spec, tmp_path, monkeypatch):
    """LogiQA's rows as a task of the harness: its own ``acc`` beside this package's."""
    pytest.importorskip("lm_eval")
    import datasets

    rows = [
        json.loads(line)
        for line in (real_data / "logiqa" / "test.jsonl").read_text().splitlines()[:6]
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "rows.yaml").write_text(
        "task: epi_logiqa\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{context}} {{query}}"\n'
        "doc_to_choice: options\ndoc_to_target: correct_option\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(harness_task, "_FOLDERS", [])
    harness_task.use_task_folder(tmp_path)
    task = create_task("lm_eval:epi_logiqa")
    spec = toy_spec()
    backbone = load_backbone(spec.model, locate_model(spec.model))
    examples = task.examples("test")
    assert examples[0].reference == rows[0]["options"][rows[0]["correct_option"]]
    scores = evaluator_of(task, examples, ChatEncoder(backbone.tokenizer, 64), 4).score(
        backbone.model
    )
    chosen = [max(range(4), key=p.option_log_likelihoods.__getitem__) for p in scores.predictions]
    expected = [100.0 * (c == r["correct_option"]) for c, r in zip(chosen, rows, strict=True)]
    assert list(scores.items) == expected
