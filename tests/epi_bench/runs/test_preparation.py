"""What a run is made of before it is trained: resolved once, checked, and warned of."""

from __future__ import annotations

import json

import pytest

from epi_bench import Strategy, Task, TaskCard, register_strategy
from epi_bench.errors import UserError
from epi_bench.plugins import options
from epi_bench.runs.examples import select_examples
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.warnings import base_text_warnings, idle_warnings
from epi_bench.spec.defaults import complete_spec
from epi_bench.task.files.file_task import register_task_file
from epi_bench.task.files.validation import validate_task_file

ALL = ["toy_first", "toy_second", "toy_choice"]


def test_options_are_completed_once_and_kept(toy_spec, monkeypatch):
    completed = []
    original = options.complete_options

    def spy(owner, *arguments, **keywords):
        completed.append(owner)
        return original(owner, *arguments, **keywords)

    monkeypatch.setattr(options, "complete_options", spy)
    spec = toy_spec("epi", {"ratio": "0.25"}, stream={"kind": "mixed"})
    prepared = prepare_run(spec)
    assert completed == ["strategy 'epi'", "stream 'mixed'"]
    assert prepared.strategy_options["ratio"] == 0.25  # a number, though it was given as text
    assert prepared.strategy_options["beta"] == 0.999
    assert prepared.stream_options == {"mixing": "concat", "weights": []}


def test_the_record_and_the_track_hold_the_options_of_the_prepared_run(run_toy, toy_spec):
    arguments = ("epi", {"warmup": 2})
    keywords = {"stream": {"kind": "mixed"}, "steps": 2}
    prepared = prepare_run(toy_spec(*arguments, **keywords))
    record = run_toy(*arguments, **keywords).record
    assert record.run_id == prepared.run_id
    assert record.strategy.hyperparameters == dict(prepared.strategy_options)
    assert record.track.facts.stream_options == dict(prepared.stream_options)


def test_a_strategy_sees_the_steps_of_each_experience_and_its_warnings_are_kept(
    toy_spec, forgotten_plugins
):
    seen = []

    class Careful(Strategy):
        def check_run(self, training, steps):
            seen.append(list(steps))
            return ["two\nlines"]

    register_strategy("toy_careful")(Careful)
    prepared = prepare_run(toy_spec("toy_careful", steps=6))
    assert seen == [[6, 6]]
    assert prepared.total_steps == 12
    assert list(prepared.warnings)[-1] == "two lines"


@pytest.mark.parametrize(("acts_from", "warned"), [(0, False), (1, False), (2, True)])
def test_a_strategy_that_never_acts_is_warned_of(acts_from, warned):
    strategy = Strategy()
    strategy.acts_from = acts_from
    assert bool(idle_warnings(strategy, 2)) is warned


class TestTextOfTheBase:
    """``protect_base``: what the base model is measured on before it is trained."""

    def _spec(self, protect_base):
        return complete_spec(
            {
                "strategy": {"name": "ewc", "options": {"protect_base": protect_base}},
                "data": {"tasks": ["mini_math"], "train_examples": 8, "test_examples": 2},
                "training": {"steps": 2},
            }
        )

    def test_the_content_of_a_file_is_part_of_the_runs_identity(self, tmp_path):
        path = tmp_path / "own.txt"
        ids = []
        for text in ("one two three", "one two three", "one two four"):
            path.write_text(text, encoding="utf-8")
            prepared = prepare_run(self._spec(str(path)))
            assert prepared.fingerprints["text:protect_base"] == prepared.texts["protect_base"]
            ids.append(prepared.run_id)
        assert ids[0] == ids[1] != ids[2]

    def test_a_text_that_cannot_be_used_is_told_before_anything_is_trained(self):
        with pytest.raises(UserError, match=r"protect_base='nowhere\.txt' is no text file"):
            prepare_run(self._spec("nowhere.txt"))

    def test_a_base_that_is_protected_by_what_it_is_measured_on_is_told(self):
        assert "it looks better" in base_text_warnings("general_text")[0]
        assert base_text_warnings("self") == base_text_warnings("none") == []


class TestSelection:
    """``count`` examples of a split, the same for every run."""

    class _Named(Task):
        name = "toy"
        card = TaskCard("s", "a", "generate", "acc", "CC0-1.0")

        def examples(self, split):
            return []

    def select(self, count, split="test"):
        return select_examples(self._Named(), split, count, range(100))

    def test_all_of_them(self):
        assert self.select(None) == self.select(100) == list(range(100))

    def test_some_in_their_order(self):
        """The drawn positions decide the numbers of every published run: they must not change."""
        chosen = self.select(10)
        assert chosen == sorted(set(chosen))
        assert chosen == self.select(10)
        assert chosen != self.select(10, "train")
        assert chosen == [2, 4, 16, 18, 32, 36, 38, 59, 77, 88]

    def test_more_than_there_are(self):
        with pytest.raises(UserError, match="task 'toy' has 100 test examples, 101 were asked"):
            self.select(101)


def test_seeds_draw_their_own_order(toy_spec):
    orders = {
        tuple(prepare_run(toy_spec(tasks=ALL, stream={"order": "random"}, seed=seed)).tasks)
        for seed in range(8)
    }
    assert len(orders) > 2


def test_the_identity_covers_what_changes_results_and_nothing_else(toy_spec):
    def identity(**changes):
        return prepare_run(toy_spec(**changes)).run_id

    assert identity() == identity()
    different = [identity(), identity(seed=1), identity(learning_rate=1e-4), identity(steps=7)]
    assert len(set(different)) == 4
    larger_batches = toy_spec().model_copy(
        update={"evaluation": toy_spec().evaluation.model_copy(update={"batch_size": 7})}
    )
    assert prepare_run(larger_batches).run_id == identity()


def test_examples_without_supervised_tokens_are_refused_or_counted(toy_spec):
    def prepared(max_length):
        spec = toy_spec()
        data = spec.data.model_copy(update={"max_length": max_length})
        return prepare_run(spec.model_copy(update={"data": data}))

    with pytest.raises(UserError, match="none of the 42 training examples keeps a supervised"):
        prepared(8)
    lengths = sorted(len(e) for e in prepared(64).tasks["toy_first"].train)
    some = prepared(lengths[0] - 2)
    report = some.tasks["toy_first"].report
    assert report.unsupervised + report.encoded == 42
    assert any("cut" in warning or "left out" in warning for warning in some.warnings)


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_few_rows_are_refused(toy_spec, split):
    spec = toy_spec()
    data = spec.data.model_copy(update={f"{split}_examples": 1000})
    with pytest.raises(UserError, match=rf"1000 were asked for: lower data\.{split}_examples"):
        prepare_run(spec.model_copy(update={"data": data}))


def test_test_examples_that_are_trained_on_are_told_and_counted(
    toy_spec, run_toy, forgotten_plugins, tmp_path
):
    rows = [{"q": f"first: {word}", "a": word} for word in ("red", "green", "blue", "one")]
    test = [rows[0], {**rows[1], "a": "two"}, {"q": "first: word", "a": "word"}]
    for name, content in (("train", rows), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    (tmp_path / "leaky.toml").write_text(
        'name = "leaky"\n[source]\ntrain = "train.jsonl"\ntest = "test.jsonl"\n'
        '[example]\nprompt = "{{ q }}"\nanswer = "{{ a }}"\n[scoring]\nmode = "generate"\n'
        'metric = "exact_match"\nmax_new_tokens = 4\n'
    )
    register_task_file(tmp_path / "leaky.toml")
    told = "2 of 3 test prompts are in the training split too, 1 with the same answer"
    assert told in validate_task_file(tmp_path / "leaky.toml").warnings
    assert f"task 'leaky': {told}" in prepare_run(toy_spec(tasks=["leaky"])).warnings
    (tmp_path / "unseen.jsonl").write_text('{"q": "first: copy", "a": "copy"}')
    leaky = (tmp_path / "leaky.toml").read_text()
    other = leaky.replace('"leaky"', '"other"').replace("test.jsonl", "unseen.jsonl")
    (tmp_path / "other.toml").write_text(other)
    register_task_file(tmp_path / "other.toml")
    shared = "test prompts are in the training split of 'other' too"
    warnings = prepare_run(toy_spec(tasks=["leaky", "other"])).warnings
    assert f"task 'leaky': 2 of 3 {shared}, 1 with the same answer" in warnings
    data = run_toy(tasks=["leaky", "toy_first"], steps=1).record.task_data
    assert (data["leaky"].test_prompts_trained, data["leaky"].test_examples_trained) == (2, 1)
    assert (data["toy_first"].test_prompts_trained, data["toy_first"].test_examples_trained) == (
        0,
        0,
    )
