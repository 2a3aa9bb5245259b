"""A run that was interrupted and goes on gives the record of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal

import pytest

from epi_bench import Strategy, register_strategy
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.interruption import RunInterruptedError
from epi_bench.runs.observer import RunObserver

EVERY_STEP = {"checkpoints": CheckpointSettings(every_steps=1)}


class Notes(RunObserver):
    """Keeps what it hears, and does something when a run comes to a point."""

    def __init__(self, at=None, do=None):
        self.heard = []
        self._at, self._do = at, do

    def _hear(self, event):
        self.heard.append(event)
        if event == self._at:
            self._at = None
            self._do()

    def step_done(self, report):
        self._hear(("step", report.number))

    def stage(self, name):
        self._hear(("stage", name))

    def scored(self, row, scores):
        self._hear(("scored", row))

    def warning(self, message):
        self._hear(("warning", message))

    def note(self, message):
        self._hear(("note", message))

    def checkpoint_saved(self, step, size, seconds):
        self._hear(("checkpoint", step))

    def of(self, kind):
        return [what for event, what in self.heard if event == kind]


def interrupt():
    raise KeyboardInterrupt


def send(number):
    return lambda: os.kill(os.getpid(), number)


def folder_of(outcome_or_out):
    [folder] = (outcome_or_out / "runs").iterdir()
    return folder


@pytest.fixture
def whole(run_toy, tmp_path):
    """The record of an uninterrupted run, with its predictions."""

    def make(strategy="full_sft", **keywords):
        request = {"checkpoints": CheckpointSettings(every_seconds=0), "log_predictions": True}
        outcome = run_toy(strategy, out=tmp_path / f"whole {strategy}", request=request, **keywords)
        return comparable(outcome.record), outcome.path.with_name("predictions.jsonl").read_text()

    return make


POINTS = [
    ("scored", "base"),
    ("step", 1),
    ("step", 6),  # the last of the first experience
    ("scored", "toy_first"),
    ("stage", "training toy_second"),
    ("step", 9),
    ("scored", "toy_second"),
]


@pytest.mark.parametrize("strategy", ["full_sft", "lora", "epi"])
def test_interrupted_equals_uninterrupted(run_toy, whole, tmp_path, strategy):
    """Every time the same command; each time it is stopped a little later."""
    request = {**EVERY_STEP, "log_predictions": True}
    for point in POINTS:
        with pytest.raises(KeyboardInterrupt):
            run_toy(strategy, observer=Notes(point, interrupt), request=request)
    outcome = run_toy(strategy, request=request)
    record, predictions = whole(strategy)
    assert comparable(outcome.record) == record
    assert outcome.path.with_name("predictions.jsonl").read_text() == predictions
    assert 4 <= outcome.record.environment.resumed <= len(POINTS)
    assert not (folder_of(tmp_path) / "checkpoints").exists()


def test_scoring_in_the_middle_of_an_experience_is_not_repeated(run_toy, whole):
    mixed = {"stream": {"kind": "mixed"}}
    record, _ = whole("epi", **mixed)
    row = record["score_matrix"]["rows"][1]
    first = Notes(("scored", row), interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_toy("epi", observer=first, request=EVERY_STEP, **mixed)
    second = Notes()
    outcome = run_toy("epi", observer=second, request=EVERY_STEP, **mixed)
    assert len(record["score_matrix"]["rows"]) > 2
    assert row not in second.of("scored")
    assert second.of("step")[0] == first.of("step")[-1] + 1
    assert comparable(outcome.record) == record


def test_what_is_done_is_not_done_again(run_toy):
    first = Notes(("scored", "toy_first"), interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=first, request=EVERY_STEP)
    second = Notes()
    run_toy(observer=second, request=EVERY_STEP)
    assert first.of("step") == [1, 2, 3, 4, 5, 6]
    assert second.of("step") == [7, 8, 9, 10, 11, 12]
    assert second.of("scored") == ["toy_second"]
    [note] = second.of("note")
    assert note.startswith("resuming at step 6, after experience 'toy_first' (checkpoint of ")


def test_a_half_done_evaluation_goes_on_with_the_next_task(run_toy, monkeypatch, whole):
    from epi_bench.evaluation.evaluator import TaskEvaluator

    scored, original = [], TaskEvaluator.score

    def count(self, model):
        if len(scored) == 3:
            scored.append("stopped")
            raise KeyboardInterrupt
        scored.append(self.task.name)
        return original(self, model)

    record, _ = whole()
    monkeypatch.setattr(TaskEvaluator, "score", count)
    with pytest.raises(KeyboardInterrupt):
        run_toy(request=EVERY_STEP)
    outcome = run_toy(request=EVERY_STEP)
    row = ["toy_first", "toy_second"]
    assert scored == [*row, "toy_first", "stopped", "toy_second", *row]
    assert comparable(outcome.record) == record


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_step_and_says_how_to_go_on(run_toy, whole, number, code):
    """Although nothing is due: a checkpoint every five minutes."""
    before = signal.getsignal(number)
    listener = Notes(("step", 4), send(number))
    with pytest.raises(RunInterruptedError) as stopped:
        run_toy(observer=listener)
    assert signal.getsignal(number) is before
    assert stopped.value.exit_code == code
    assert stopped.value.hint == "run the same command again to go on from step 4"
    assert listener.of("checkpoint") == [4]
    second = Notes()
    outcome = run_toy(observer=second)
    [note] = second.of("note")
    assert note.startswith("resuming at step 4 of experience 'toy_first' (4 of 6 there) (")
    assert second.of("step")[0] == 5
    assert comparable(outcome.record) == whole()[0]


def test_a_second_signal_ends_at_once(run_toy):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        pytest.fail("it went on")

    listener = Notes(("step", 4), twice)
    with pytest.raises(RunInterruptedError):
        run_toy(observer=listener)
    assert listener.of("checkpoint") == []


def test_force_begins_anew_and_keeps_the_old_results_until_then(run_toy, tmp_path):
    request = {**EVERY_STEP, "log_predictions": True}
    first = run_toy(request=request)
    folder = folder_of(tmp_path)
    kept = {name: (folder / name).read_text() for name in ("record.json", "predictions.jsonl")}
    forced = {**request, "force": True}
    with pytest.raises(RunInterruptedError) as stopped:
        run_toy(observer=Notes(("step", 7), interrupt), request=forced)
    assert {name: (folder / name).read_text() for name in kept} == kept
    assert stopped.value.hint == ("run the same command again with force off to go on from step 6")
    again = Notes(("step", 3), interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=again, request=forced)
    assert again.of("step") == [1, 2, 3]  # from the beginning, once more
    last = Notes()
    outcome = run_toy(observer=last, request=request)  # it goes on, though there is a record
    assert last.of("step")[0] == 3
    assert not outcome.skipped
    assert comparable(outcome.record) == comparable(first.record)
    assert run_toy(request=request).skipped


def test_a_failed_run_takes_no_finished_one_away(run_toy, tmp_path, monkeypatch):
    from epi_bench.runs.stream_training import StreamTraining

    run_toy()
    path = folder_of(tmp_path) / "record.json"
    kept = path.read_text()

    def fail(*arguments):
        raise ValueError("no more")

    monkeypatch.setattr(StreamTraining, "_train_stream", fail)
    listener = Notes()
    outcome = run_toy(observer=listener, request={"force": True})
    assert outcome.record.status == "failed"
    assert path.read_text() == kept
    assert f"the finished record of an earlier try stays in {path}" in listener.of("warning")


def test_a_checkpoint_left_beside_a_record_is_no_reason_to_train(run_toy, tmp_path):
    """A process may be killed between the two."""
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Notes(("step", 7), interrupt), request=EVERY_STEP)
    left = folder_of(tmp_path) / "checkpoints"
    saved = tmp_path / "saved"
    left.rename(saved)
    run_toy()
    saved.rename(left)
    assert run_toy().skipped
    assert not left.exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run_toy, tmp_path, whole):
    request = {"checkpoints": CheckpointSettings(every_steps=2, kept=1)}
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Notes(("step", 5), interrupt), request=request)
    _, newer = sorted((folder_of(tmp_path) / "checkpoints").iterdir())
    with (newer / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    listener = Notes()
    outcome = run_toy(observer=listener, request=request)
    assert listener.of("warning") == [
        f"checkpoint {newer} is not used: model.safetensors is not as it was written"
    ]
    assert listener.of("step")[0] == 3
    assert comparable(outcome.record) == whole()[0]


def test_a_checkpoint_of_another_version_is_not_used(run_toy, monkeypatch, whole):
    from epi_bench.runs import run_checkpoints

    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Notes(("step", 5), interrupt), request=EVERY_STEP)
    original = run_checkpoints.run_identity
    monkeypatch.setattr(
        run_checkpoints, "run_identity", lambda run: {**original(run), "torch": "9.9"}
    )
    listener = Notes()
    outcome = run_toy(observer=listener, request=EVERY_STEP)
    [warning] = listener.of("warning")
    assert "is not used: it was made with torch " in warning
    assert warning.endswith("here is 9.9")
    assert listener.of("step")[0] == 1
    assert outcome.record.environment.resumed == 0
    assert comparable(outcome.record) == whole()[0]


def test_a_strategy_that_cannot_take_up_its_state_starts_from_the_beginning(run_toy):
    @register_strategy("keeps_nothing")
    class KeepsNothing(Strategy):
        """Cannot go on."""

        def load_state_dict(self, state):
            raise KeyError("anchor")

    with pytest.raises(KeyboardInterrupt):
        run_toy("keeps_nothing", observer=Notes(("step", 5), interrupt), request=EVERY_STEP)
    listener = Notes()
    outcome = run_toy("keeps_nothing", observer=listener, request=EVERY_STEP)
    [warning] = listener.of("warning")
    assert "strategy keeps_nothing cannot take up its state: KeyError: 'anchor'" in warning
    assert listener.of("step")[0] == 1
    assert outcome.succeeded


def test_a_strategy_whose_state_cannot_be_saved_is_trained_without_checkpoints(run_toy):
    @register_strategy("gives_numbers")
    class GivesNumbers(Strategy):
        """Its state is no tensor."""

        def state_dict(self):
            return {"count": 3}

        def state_bytes(self):
            return 0

    listener = Notes()
    assert run_toy("gives_numbers", observer=listener, request=EVERY_STEP).succeeded
    [warning] = listener.of("warning")
    assert warning.startswith("no checkpoints are written: ")
    assert "gives int for 'count'" in warning


def test_a_full_disk_does_not_end_the_run(run_toy, monkeypatch):
    from epi_bench.runs import checkpoint_folder

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "_flush", full)
    listener = Notes()
    outcome = run_toy(observer=listener, request=EVERY_STEP)
    assert outcome.succeeded
    [warning] = listener.of("warning")
    assert warning.startswith("cannot write a checkpoint to ")
    assert warning.endswith("No space left on device; the run goes on, and tries again later")


def test_nothing_is_written_where_it_is_turned_off_or_the_run_is_short(run_toy, tmp_path):
    for settings in (CheckpointSettings(every_seconds=0), CheckpointSettings()):
        listener = Notes()
        run_toy(
            out=tmp_path / str(settings.is_on), observer=listener, request={"checkpoints": settings}
        )
        assert listener.of("checkpoint") == []


def test_a_run_that_is_no_longer_short_saves_at_the_end_of_each_experience(run_toy, monkeypatch):
    """By time, too: else a long evaluation after a short training would be lost."""
    from epi_bench.runs import run_checkpoints

    clock = [0.0]
    monkeypatch.setattr(run_checkpoints, "monotonic", lambda: clock[0])

    def pass_time(seconds):
        clock[0] += seconds

    listener = Notes(("scored", "base"), lambda: pass_time(11.0))
    run_toy(observer=listener)
    assert listener.of("checkpoint") == [6, 12]


def test_events_go_on_where_they_were_cut(run_toy, tmp_path):
    from epi_bench.runs.observer import logged_warnings

    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Notes(("step", 7), interrupt), request=EVERY_STEP)
    path = folder_of(tmp_path) / "events.jsonl"
    with path.open("a") as file:
        file.write('{"event": "warning", "mess')
    run_toy(request=EVERY_STEP)
    lines = path.read_text().splitlines()
    torn = lines.index('{"event": "warning", "mess')
    assert json.loads(lines[torn - 1])["status"] == "interrupted"
    events = [json.loads(line)["event"] for line in lines[torn + 1 :]]
    assert events[0] in ("warning", "run_started")
    assert "resumed" in events
    assert "checkpoint" in events
    assert events[-1] == "run_ended"
    assert all("mess" in message or message for message in logged_warnings(path))


def test_the_last_good_step_is_in_the_record_of_a_failed_run(run_toy):
    @register_strategy("explodes")
    class Explodes(Strategy):
        """Has no gradient from the fifth step on."""

        def gradients_ready(self, step):
            self.last = step.number

        def penalty(self, model):
            is_good = getattr(self, "last", 0) < 4
            return None if is_good else model.lm_head.weight.sum() * float("nan")

    outcome = run_toy("explodes", max_skipped_steps=2)
    assert outcome.record.status == "failed"
    assert "the last at step 6 of 'toy_first'" in outcome.record.error
    assert outcome.record.error.endswith("the last good step was 4 of 12")


def test_the_interrupted_run_has_no_record(run_toy, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Notes(("step", 5), interrupt), request=EVERY_STEP)
    folder = folder_of(tmp_path)
    assert not (folder / "record.json").exists()
    assert Workspace(tmp_path).finished_record(folder.name) is None
    run_toy()
    assert load_record(folder / "record.json").status == "finished"
