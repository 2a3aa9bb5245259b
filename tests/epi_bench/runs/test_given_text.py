"""The loss on a general text that the user gives: a file, or the test of a task."""

from __future__ import annotations

import json

import pytest

from epi_bench.errors import UserError
from epi_bench.evaluation.running_text import text_negative_log_likelihood
from epi_bench.model.load import load_backbone
from epi_bench.model.location import locate_model
from epi_bench.results.leaderboard.validation import validate_records
from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.record_file import comparable
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.given_text import FEW_TOKENS, given_text
from epi_bench.runs.known_runs import KnownRuns
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import DataSpec

SENTENCES = ("red green blue one two three copy", "the word red")


@pytest.fixture
def text(tmp_path):
    """A file with two texts."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f"{json.dumps({'text': s})}\n" for s in SENTENCES), encoding="utf-8")
    return path


@pytest.fixture
def with_text(toy_spec):
    """A toy specification with a general text."""

    def make(source, *arguments, **keywords):
        keywords = {"tasks": ["toy_first"], "steps": 3, **keywords}
        spec = toy_spec(*arguments, **keywords)
        data = spec.data.model_copy(update={"general_text": source and str(source)})
        return spec.model_copy(update={"data": data})

    return make


def _record(spec, out, observer=None, **request):
    return run_one(spec, RunRequest(Workspace(out), **request), observer or RunObserver()).record


def test_retention_is_measured_on_it_and_nothing_else_changes(with_text, text, tmp_path):
    spec = with_text(text)
    given, plain = _record(spec, tmp_path / "a"), _record(with_text(None), tmp_path / "b")
    backbone = load_backbone(spec.model, locate_model(spec.model))
    alone = [
        text_negative_log_likelihood(backbone.model, backbone.tokenizer, sentence, 64, 4)
        for sentence in SENTENCES
    ]
    tokens = sum(found.tokens for found in alone)
    mean = sum(found.negative_log_likelihood * found.tokens for found in alone) / tokens
    assert given.retention.tokens == tokens != plain.retention.tokens
    assert given.retention.nll_before == pytest.approx(mean, rel=1e-6)
    assert given.metrics["general_retention"] == pytest.approx(
        given.retention.nll_after - given.retention.nll_before
    )
    assert given.metrics["general_retention"] != plain.metrics["general_retention"]
    for part in ("score_matrix", "losses", "item_scores", "moved_weights"):
        assert getattr(given, part) == getattr(plain, part)
    assert given.track.name != plain.track.name
    assert plain.track.facts.general_text is None
    assert disagreements(given) == disagreements(plain) == []


def test_it_is_known_by_its_content_wherever_it_lies(with_text, text, tmp_path):
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(text.read_bytes())
    ids = [prepare_run(with_text(source)).run_id for source in (text, moved, None)]
    text.write_text('{"text": "another text of a few words"}\n')
    assert ids[0] == ids[1] != ids[2]
    assert prepare_run(with_text(text)).run_id not in ids


def test_a_finished_run_with_it_is_found_without_preparing_it(with_text, text, tmp_path):
    spec = with_text(text)
    record = _record(spec, tmp_path / "out")
    known = KnownRuns(RunRequest(Workspace(tmp_path / "out")))
    assert known.find(spec).record == record
    assert known.find(with_text(None)) is None


def test_a_tasks_test_texts_are_texts_of_their_own(toy_tasks):
    found = given_text(DataSpec(general_text="toy_choice", test_examples=None))
    assert len(found.texts) == 14
    assert found.texts[0] == "choose: red green\ngreen"
    assert given_text(DataSpec(general_text=None)) is None


def test_what_cannot_be_a_general_text_is_told(tmp_path, toy_tasks):
    with pytest.raises(UserError, match=r"'gsm8k' is trained .*another data.general_text"):
        complete_spec({"data": {"tasks": ["gsm8k"], "general_text": "gsm8k"}})
    for source, message in (
        ("toy_choise", r"unknown task or text file 'toy_choise'.*toy_choice"),
        ("nowhere/text.txt", "is no text file: give the path"),
        ("", "is no text file"),
        (str(tmp_path), "is no text file"),
        ("mine.toml", "is a task file: give it with data.eval_tasks"),
    ):
        with pytest.raises(UserError, match=message) as told:
            given_text(DataSpec(general_text=source))
        assert told.value.settings == ("data.general_text",)


def test_a_short_one_is_told_and_one_that_predicts_nothing_refused(with_text, text, tmp_path):
    heard = [w for w in prepare_run(with_text(text)).warnings if "general text" in w]
    assert len(heard) == 1
    assert "tokens: the loss on it is a rough measure" in heard[0]
    long = tmp_path / "long.txt"
    long.write_text("red green blue " * FEW_TOKENS)
    assert not any("general text" in w for w in prepare_run(with_text(long)).warnings)
    long.write_text("a")
    with pytest.raises(UserError, match="no text in it has more than a single token"):
        prepare_run(with_text(long))


def test_what_protects_the_base_by_general_text_takes_it(with_text, text, tmp_path):
    options = {"protect_base": "general_text", "strength": 1e4, "fisher_samples": 4}
    given, plain = (
        _record(with_text(source, "ewc", options), tmp_path / name)
        for name, source in (("given", text), ("plain", None))
    )
    assert given.losses != plain.losses


def test_references_are_shared_with_runs_without_it(with_text, text):
    specs = [with_text(source) for source in (text, None)]
    assert reference_spec(specs[0], "toy_first") == reference_spec(specs[1], "toy_first")


@pytest.mark.parametrize("point", [("scored", "base"), ("step", 2)])
def test_interrupted_equals_uninterrupted(with_text, text, tmp_path, point):
    class Stop(RunObserver):
        def step_done(self, report):
            self.meet("step", report.number)

        def scored(self, row, scores):
            self.meet("scored", row)

        def meet(self, *met):
            if met == point:
                raise KeyboardInterrupt

    spec = with_text(text, "ewc", {"protect_base": "general_text"})
    saving = {"checkpoints": CheckpointSettings(every_steps=1)}
    with pytest.raises(KeyboardInterrupt):
        _record(spec, tmp_path / "a", Stop(), **saving)
    resumed, whole = _record(spec, tmp_path / "a", **saving), _record(spec, tmp_path / "b")
    assert resumed.environment.resumed == 1
    assert comparable(resumed) == comparable(whole)


def test_a_record_whose_text_is_not_said_is_found(with_text, text, tmp_path):
    record = _record(with_text(text), tmp_path)
    path = next(tmp_path.rglob("record.json"))
    assert validate_records(path).findings == ()
    content = record.model_dump(mode="json")
    content["fingerprints"]["texts"] = {}
    fields = [found.field for found in disagreements(RunRecord.model_validate(content))]
    assert {"run_id", "track.facts.general_text", "fingerprints.texts.general_text"} <= set(fields)
