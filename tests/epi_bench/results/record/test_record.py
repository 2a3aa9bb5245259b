"""The run record: reading, writing, versions, tracks."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from epi_bench import files as atomic
from epi_bench.errors import UserError
from epi_bench.results.record import record_file as files
from epi_bench.results.record import track
from epi_bench.results.record.consistency import expected_run_id
from epi_bench.results.record.items import pack_items, unpack_items
from epi_bench.results.record.run_record import RunRecord
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.streams import complete_stream_options

REPOSITORY = Path(__file__).resolve().parents[4]
PROTOCOLS = {"a": ("generate", "exact_match", 1), "b": ("choice", "acc", 1)}


def make_spec(**changes):
    return complete_spec({"data": {"tasks": ["a", "b"]}, **changes})


def make_facts(spec, **changes):
    given = {
        "model_fingerprint": "m1",
        "task_fingerprints": {"a": "f1", "b": "f2"},
        "protocols": PROTOCOLS,
        "stream_options": complete_stream_options(spec.stream.kind, spec.stream.options),
    }
    return track.track_facts(spec, **{**given, **changes})


def make_record(**changes):
    spec = make_spec()
    content = {
        "run_id": "unknown",
        "status": "finished",
        "spec": spec,
        "strategy": {"name": "epi", "hyperparameters": {"ratio": 0.5}},
        "track": track.make_track(make_facts(spec)),
        "task_order": ["a", "b"],
        "score_matrix": {
            "rows": ["base", "a", "b"],
            "columns": [
                {"task": "a", "metric": "exact_match", "learned_at": 1},
                {"task": "b", "metric": "acc", "learned_at": 2},
            ],
            "values": [[0.0, 25.0], [80.0, None], [100 / 3, 70.0]],
            "n": [3, 40],
            "standard_errors": [[0.0, 7.0], [7.4, None], [8.8, 7.3]],
        },
        "item_scores": {"a": pack_items({"0": 100.0, "1": 0.0, "2": 0.0})},
        "metrics": {"average_accuracy": 155 / 3, "backward_transfer": -140 / 3},
        "cost": {
            "training_seconds": 1.5,
            "evaluation_seconds": 0.5,
            "total_seconds": 3.0,
            "tokens_trained": 1000,
            "trainable_parameters": 10,
            "total_parameters": 10,
        },
        "losses": [{"step": 1, "loss": 2.5}],
        "fingerprints": {"model": "m1", "tasks": {"a": "f1", "b": "f2"}, "chat_template": "c"},
        "environment": {
            "packages": {"torch": "2"},
            "python": "3.11",
            "platform": "Linux",
            "processor": "p",
            "device": "cpu",
            "threads": 1,
            "deterministic": True,
            "started_at": "2026-01-01T00:00:00+00:00",
        },
    }
    record = RunRecord.model_validate({**content, **changes})
    if "run_id" in changes:
        return record
    return record.model_copy(update={"run_id": expected_run_id(record)})


class TestFile:
    def test_what_is_saved_is_loaded(self, tmp_path):
        record = make_record()
        path = tmp_path / "folder" / "abc123.json"
        files.save_record(record, path)
        assert files.load_record(path) == record
        assert [file.name for file in path.parent.iterdir()] == ["abc123.json"]

    def test_saving_what_was_loaded_gives_the_same_bytes(self, tmp_path):
        path = tmp_path / "record.json"
        files.save_record(make_record(), path)
        before = path.read_bytes()
        files.save_record(files.load_record(path), path)
        assert path.read_bytes() == before

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*none\.json"):
            files.load_record(tmp_path / "none.json")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "not a JSON file"),
            ('{"schema_version": 1,', "not a JSON file"),
            ('{"schema_version": NaN}', "NaN is no JSON number"),
            ('{"schema_version": 1e999}', "1e999 is too large a number"),
            ('{"schema_version": 1' + "0" * 5000 + "}", "an integer of 5001 digits"),
            ('{"schema_version": "\\ud800"}', "surrogates not allowed"),
            ("[" * 100_000, "not a JSON file"),
            ("[]", "no schema_version"),
            ("{}", "no schema_version"),
            ('{"schema_version": true}', "no schema_version"),
            ('{"schema_version": 0}', "no schema_version"),
            ('{"schema_version": 1}', r"run_id is missing \(and 7 more\)"),
            ('{"schema_version": 2}', "newer than 1.*upgrade epi-bench"),
        ],
    )
    def test_a_broken_file_is_one_line_that_names_file_and_problem(self, tmp_path, text, problem):
        path = tmp_path / "broken.json"
        path.write_text(text)
        with pytest.raises(UserError, match=problem) as caught:
            files.load_record(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_binary_file(self, tmp_path):
        path = tmp_path / "broken.json"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError, match="not a JSON file"):
            files.load_record(path)

    def test_what_is_no_file_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(UserError, match=r"pipe\.json: not a file"):
            files.load_record(tmp_path / "pipe.json")

    def test_a_huge_file_is_not_read(self, tmp_path, monkeypatch):
        path = tmp_path / "record.json"
        files.save_record(make_record(), path)
        monkeypatch.setattr(files, "LARGEST_FILE", 1000)
        with pytest.raises(UserError, match="more than 1,000 bytes"):
            files.load_record(path)

    def test_unknown_keys_are_refused(self, tmp_path):
        path = tmp_path / "record.json"
        content = json.loads(files.record_to_json(make_record()))
        content["cost"]["dollars"] = 1
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"cost\.dollars"):
            files.load_record(path)

    def test_old_versions_are_migrated_step_by_step(self, tmp_path, monkeypatch):
        def rename(content):
            identity = content.pop("identity")
            return {**content, "schema_version": 1, "run_id": identity}

        monkeypatch.setattr(files, "SCHEMA_VERSION", 3)
        content = json.loads(files.record_to_json(make_record()))
        identity = content.pop("run_id")
        steps = {1: lambda c: {**c, "identity": identity}, 2: rename}
        monkeypatch.setattr(files, "MIGRATIONS", steps)
        path = tmp_path / "record.json"
        path.write_text(json.dumps(content))
        assert files.load_record(path).run_id == identity

    def test_each_old_version_has_a_migration(self):
        assert set(files.MIGRATIONS) == set(range(1, files.SCHEMA_VERSION))
        assert RunRecord.model_fields["schema_version"].default == files.SCHEMA_VERSION


class TestAtomicWriting:
    @pytest.mark.parametrize(
        ("error", "raised"),
        [(OSError(28, "No space left on device"), UserError), (KeyboardInterrupt(), None)],
    )
    def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path, monkeypatch, error, raised
    ):
        path = tmp_path / "record.json"
        atomic.write_atomically(path, "old")

        def fail(descriptor):
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(raised or KeyboardInterrupt):
            atomic.write_atomically(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write"):
            atomic.write_atomically(tmp_path / "file" / "record.json", "x")

    def test_the_file_gets_the_permissions_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").write_text("")
        atomic.write_atomically(tmp_path / "record", "")
        assert (tmp_path / "record").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestConsistency:
    def test_records_are_immutable(self):
        with pytest.raises(ValidationError):
            make_record().run_id = "other"

    def test_not_a_number_becomes_undefined(self):
        record = make_record(
            losses=[{"step": 1, "loss": math.nan}], metrics={"average_accuracy": math.inf}
        )
        assert record.losses[0].loss is None
        assert record.metrics == {"average_accuracy": None}

    def test_cost_must_be_finite(self):
        cost = {**make_record().cost.model_dump(), "total_seconds": math.nan}
        with pytest.raises(ValidationError):
            make_record(cost=cost)

    def test_a_failed_run_says_why_and_needs_no_scores(self):
        failed = make_record(
            status="failed", error="ValueError: loss", score_matrix=None, cost=None, metrics={}
        )
        assert failed.score_matrix is None
        with pytest.raises(ValidationError, match="must say its error"):
            make_record(status="failed")

    def test_a_finished_run_has_scores_and_no_error(self):
        with pytest.raises(ValidationError, match="needs score_matrix"):
            make_record(score_matrix=None)
        with pytest.raises(ValidationError, match="no error"):
            make_record(error="x")

    @pytest.mark.parametrize(
        "change",
        [
            {"rows": ["base", "a"]},
            {"n": [30]},
            {"values": [[0.0], [1.0], [2.0]]},
            {"columns": [{"task": "a", "metric": "m", "learned_at": 3}] * 2},
        ],
    )
    def test_the_shapes_of_the_score_matrix_fit(self, change):
        matrix = {**make_record().score_matrix.model_dump(), **change}
        with pytest.raises(ValidationError):
            make_record(score_matrix=matrix)

    def test_comparable_leaves_out_what_older_records_lack_and_what_differs_anyway(self):
        record = make_record()
        left = files.comparable(record)
        kept_out = {"cost", "environment", "judge", "graded_protection"}
        assert set(record.model_dump()) - set(left) == kept_out
        environment = {**record.environment.model_dump(), "started_at": "2027"}
        assert files.comparable(make_record(environment=environment)) == left
        assert files.comparable(make_record(losses=[{"step": 1, "loss": 2.6}])) != left


class TestItemScores:
    @settings(deadline=None)
    @given(st.dictionaries(st.text(), st.none() | st.floats(0, 100)))
    def test_round_trip(self, scores):
        assert unpack_items(pack_items(scores)) == scores

    def test_packing_compresses(self):
        scores = {str(item): 100.0 * (item % 2) for item in range(2000)}
        assert len(pack_items(scores)) < len(json.dumps(scores)) / 4

    @pytest.mark.parametrize("text", ["%%%", "AAAA", pack_items({"a": 1.0})[:-8], ""])
    def test_damaged(self, text):
        with pytest.raises(UserError, match="damaged"):
            unpack_items(text)

    def test_a_bomb_is_refused(self, monkeypatch):
        monkeypatch.setattr("epi_bench.results.record.items.MAX_ITEM_BYTES", 1000)
        with pytest.raises(UserError, match="damaged"):
            unpack_items(pack_items({str(item): 0.0 for item in range(1000)}))


class TestTrack:
    def test_free_choices_do_not_change_the_track(self):
        plain = track.track_name(make_facts(make_spec()))
        for change in (
            {"strategy": {"name": "ewc", "options": {"strength": 3}}},
            {"seed": 7},
            {"stream": {"order": "random"}},
            {"data": {"tasks": ["b", "a"]}},
            {"training": {"learning_rate": 0.5, "optimizer": "sgd"}},
            {"training": {"batch_size": 10, "accumulation": 2}},  # still 20 examples a step
        ):
            assert track.track_name(make_facts(make_spec(**change))) == plain, change

    def test_what_makes_runs_incomparable_changes_the_track(self):
        data = {"tasks": ["a", "b"]}
        facts = [
            make_facts(make_spec(**change))
            for change in (
                {},
                {"data": {**data, "train_examples": 5}},
                {"data": {**data, "test_examples": 5}},
                {"data": {**data, "max_length": 64}},
                {"evaluation": {"max_new_tokens": 8}},
                {"training": {"steps": 3}},
                {"training": {"epochs": 3}},
                {"training": {"batch_size": 3}},
                {"training": {"accumulation": 2}},
                {"stream": {"kind": "mixed"}},
                {"stream": {"kind": "mixed", "options": {"mixing": "interleave_over"}}},
                {"model": {"name": "tiny", "revision": "v2"}},
            )
        ]
        spec = make_spec()
        facts += [
            make_facts(spec, model_fingerprint="m2"),
            make_facts(spec, task_fingerprints={"a": "f1", "b": "f3"}),
            make_facts(spec, protocols={**PROTOCOLS, "b": ("choice", "acc_norm", 1)}),
            make_facts(spec, protocols={**PROTOCOLS, "b": ("teacher_forced", "acc", 1)}),
            make_facts(spec, protocols={**PROTOCOLS, "b": ("choice", "acc", 2)}),
            make_facts(spec, processes=3),
        ]
        names = [track.track_name(fact) for fact in facts]
        assert len(set(names)) == len(names)

    def test_a_default_said_aloud_is_the_same_track(self):
        silent = make_facts(make_spec(stream={"kind": "mixed"}))
        aloud = make_facts(make_spec(stream={"kind": "mixed", "options": {"mixing": "concat"}}))
        assert silent == aloud

    def test_name_is_readable(self):
        tasks = ["mini_chat", "mini_code", "mini_math", "mini_logic", "mini_instruct"]
        facts = make_facts(
            complete_spec({"data": {"tasks": tasks}}),
            task_fingerprints=dict.fromkeys(tasks, "f"),
            protocols=dict.fromkeys(tasks, ("generate", "exact_match", 1)),
        )
        head, digest = track.track_name(facts).rsplit("-", 1)
        assert head == "mini-tiny-sequential"
        assert len(digest) == 8
        assert int(digest, 16) >= 0

    @pytest.mark.parametrize(
        ("model", "part"),
        [
            ("org/Some-Model", "Some_Model"),
            ("/home/me/models/llama/", "llama"),
            ("C:\\models\\llama", "llama"),
            ("..", "_"),
            ("x" * 300, "x" * 40),
            ("weird: name*?", "weird_name_"),
        ],
    )
    def test_name_is_safe_as_a_folder(self, model, part):
        spec = make_spec(model={"name": model})
        name = track.track_name(make_facts(spec))
        assert name.startswith(f"a+b-{part}-sequential-")
        assert len(name) < 150
        assert not set(name) & set('/\\:*?"<>| ')

    def test_a_track_whose_name_does_not_fit_its_facts_is_refused(self):
        facts = make_facts(make_spec())
        with pytest.raises(ValidationError, match="does not fit"):
            track.Track(name="mini-tiny-sequential-00000000", facts=facts)


def test_the_committed_schema_is_current():
    path = REPOSITORY / "scripts" / "write_schema.py"
    specification = importlib.util.spec_from_file_location("write_schema", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    assert script.SCHEMA_FILE.read_text(encoding="utf-8") == script.schema_text(), (
        "the record's fields changed: run python scripts/write_schema.py"
    )
