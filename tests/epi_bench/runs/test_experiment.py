"""Whole runs: identity, records, failures, interruption."""

from __future__ import annotations

import io
import json

import pytest

from epi_bench import Strategy, register_strategy
from epi_bench.plugins.loading import load_plugin_file
from epi_bench.results.leaderboard import load_published
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import expand, run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.recording import add_references
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.toml import read_toml
from epi_bench.strategy.strategy import STRATEGIES

ALL = ["toy_first", "toy_second", "toy_choice"]


def test_two_runs_of_one_specification_give_identical_records(run_toy, tmp_path):
    first = run_toy("epi", tasks=ALL, out=tmp_path / "one").record
    second = run_toy("epi", tasks=ALL, out=tmp_path / "two").record
    assert first.status == "finished"
    assert comparable(first) == comparable(second)


def test_a_record_holds_what_the_run_measured(run_toy):
    outcome = run_toy("epi", {"warmup": 2, "interval": 3}, tasks=ALL)
    record = load_record(outcome.path)
    assert record == outcome.record
    matrix = record.score_matrix
    assert matrix.rows == ("base", *ALL)
    assert [column.learned_at for column in matrix.columns] == [1, 2, 3]
    assert matrix.n == (14, 14, 14)
    assert len(record.gradient_conflict.points) == 3
    assert record.mask_statistics[-1].values["achieved_ratio"] == pytest.approx(0.5, rel=1e-3)
    assert record.retention.tokens > 1000
    assert record.cost.tokens_trained > 0
    assert record.cost.extra_state_bytes > 4 * record.cost.trainable_parameters
    assert record.strategy.hyperparameters["beta"] == 0.999
    assert record.environment.threads == 1


def test_a_record_holds_where_weights_were_drawn_back(run_toy):
    record = load_record(run_toy("ewc", {"fisher_samples": 2}, tasks=ALL[:2], steps=2).path)
    (point,) = record.graded_protection  # nothing is drawn back in the first experience
    assert point.experience == 1
    kinds = [share for part, share in point.parts.items() if not part.startswith("layer_")]
    assert sum(share.stiffness for share in kinds) == pytest.approx(1)


def test_an_untrained_model_forgets_nothing(run_toy):
    class Frozen(Strategy):
        """Every step is undone."""

        def begin_experience(self, experience):
            self.kept = [p.detach().clone() for p in self.context.model.parameters()]

        def parameters_updated(self, step):
            for parameter, kept in zip(step.model.parameters(), self.kept, strict=True):
                parameter.data.copy_(kept)

    if "toy_frozen" not in STRATEGIES.names():
        register_strategy("toy_frozen")(Frozen)
    metrics = run_toy("toy_frozen", tasks=ALL).record.metrics
    for name in ("forgetting", "backward_transfer", "forward_transfer", "general_retention"):
        assert metrics[name] == 0


def test_a_finished_run_is_skipped_and_force_makes_it_anew(run_toy):
    first = run_toy()
    again = run_toy()
    assert again.skipped
    assert again.record == first.record
    forced = run_toy(request={"force": True})
    assert not forced.skipped
    assert comparable(forced.record) == comparable(first.record)


def test_mixed_stream_has_as_many_rows_as_tasks_and_only_fitting_metrics(run_toy):
    record = run_toy(tasks=ALL, stream={"kind": "mixed"}).record
    assert len(record.score_matrix.rows) == 1 + 3
    assert record.experiences[0].steps == 18
    assert record.metrics["average_accuracy"] is not None
    assert record.metrics["backward_transfer"] is None
    assert record.metrics["forgetting"] is None


def test_a_stream_that_comes_back_to_a_task(run_toy, forgotten_plugins, tmp_path):
    path = tmp_path / "there_and_back.py"
    path.write_text(
        "from epi_bench import ExperiencePlan, register_stream\n"
        "@register_stream('there_and_back')\n"
        "def there_and_back(tasks):\n"
        "    order = [*tasks, *tasks[:-1]]\n"
        "    return [ExperiencePlan(task, (task,)) for task in order]\n"
    )
    load_plugin_file(path)
    request = {"plugins": (path,), "references": True}
    record = run_toy(
        "epi", tasks=ALL[:2], stream={"kind": "there_and_back"}, request=request, steps=3
    ).record
    assert record.status == "finished"
    first, second = record.score_matrix.columns
    assert (first.untrained_until, first.first_learned_at, first.learned_at) == (0, 1, 3)
    assert (second.untrained_until, second.first_learned_at, second.learned_at) == (1, 2, 2)
    assert (first.budget, second.budget) == (2, 1)
    scores = record.score_matrix.values
    assert record.metrics["forward_transfer"] == pytest.approx(scores[1][1] - scores[0][1])
    assert record.metrics["backward_transfer"] == pytest.approx(scores[3][1] - scores[2][1])
    assert set(record.fingerprints.plugins) == {
        "stream:there_and_back", "task:toy_first", "task:toy_second"
    }  # fmt: skip
    assert record.track.facts.stream_code == record.fingerprints.plugins["stream:there_and_back"]
    # the first task was trained for two budgets, its reference for one: they do not compare
    completed = add_references(record, {"toy_first": 90.0, "toy_second": 90.0})
    assert completed.metrics["intransigence"] is None
    assert completed.metrics["forward_transfer"] == record.metrics["forward_transfer"]


def test_records_made_before_first_training_was_kept_have_the_same_metrics(run_toy):
    record = run_toy(tasks=ALL).record
    content = record.model_dump(mode="json")
    for column in content["score_matrix"]["columns"]:
        for name in ("first_learned_at", "untrained_until", "budget"):
            del column[name]
    del content["fingerprints"]["plugins"]
    old = RunRecord.model_validate(content)
    assert add_references(old, None).metrics == record.metrics


@pytest.mark.parametrize("stop", [SystemExit(0), GeneratorExit(), RecursionError("deep")])
def test_whatever_a_strategy_raises_is_a_failed_run(stop, run_toy, forgotten_plugins):
    class Stops(Strategy):
        """Ends in the first experience."""

        def begin_experience(self, experience):
            raise stop

    register_strategy("toy_stops")(Stops)
    record = run_toy("toy_stops").record
    assert record.status == "failed"
    assert record.error.startswith(type(stop).__name__)


def test_references_come_once_and_complete_the_metrics(toy_spec, tmp_path):
    spec = toy_spec("full_sft", tasks=ALL)
    workspace = Workspace(tmp_path)
    without = next(run_in_process([spec], RunRequest(workspace), RunObserver()))
    assert without.record.metrics["intransigence"] is None
    request = RunRequest(workspace, references=True)
    completed = next(run_in_process([spec], request, RunObserver()))
    assert completed.skipped  # completed from its score matrix, not trained again
    assert set(completed.record.reference_scores) == set(ALL)
    assert completed.record.metrics["intransigence"] is not None
    assert load_record(completed.path) == completed.record
    # the first task of a stream is trained exactly as alone
    matrix = completed.record.score_matrix
    assert matrix.values[1][0] == completed.record.reference_scores[matrix.columns[0].task]
    tracks = load_published(tmp_path / "results").tracks
    assert len(tracks) == 1  # references are not published


def test_a_reference_is_the_same_for_every_strategy_seed_and_stream(toy_spec):
    specs = [
        toy_spec("epi", {"ratio": 0.2}, seed=3),
        toy_spec("full_sft", stream={"kind": "mixed"}),
        toy_spec("lora", stream={"order": "random"}),
    ]
    references = {reference_spec(spec, "toy_first").model_dump_json() for spec in specs}
    assert len(references) == 1


def test_a_failing_strategy_leaves_a_failed_record_and_the_others_go_on(toy_spec, tmp_path):
    class Broken(Strategy):
        """Fails in the second experience."""

        def begin_experience(self, experience):
            if experience.index == 1:
                raise ZeroDivisionError("on purpose")

    if "toy_broken" not in STRATEGIES.names():
        register_strategy("toy_broken")(Broken)
    specs = expand(toy_spec(), {"toy_broken": {}, "full_sft": {}}, [0])
    outcomes = list(run_in_process(specs, RunRequest(Workspace(tmp_path)), RunObserver()))
    assert [outcome.succeeded for outcome in outcomes] == [False, True]
    record = load_record(outcomes[0].path)
    assert record.status == "failed"
    assert record.error == "ZeroDivisionError: on purpose"
    published = list((tmp_path / "results").rglob("*.json"))
    assert [path.stem for path in published] == [outcomes[1].record.run_id]


def test_ctrl_c_leaves_no_record(run_toy, tmp_path):
    class Interrupt(RunObserver):
        def step_done(self, report):
            if report.number == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Interrupt())
    assert not list(tmp_path.rglob("*.json"))
    events = [json.loads(line) for line in next(tmp_path.rglob("events.jsonl")).open()]
    assert events[-1]["event"] == "run_ended"
    assert events[-1]["status"] == "interrupted"
    assert run_toy().record.status == "finished"


def test_run_toml_repeats_the_run(run_toy):
    outcome = run_toy("epi", {"ratio": 0.25}, accumulation=2)
    content = read_toml(outcome.path.with_name("run.toml"))
    content.pop("locations")
    assert complete_spec(content) == outcome.spec


def test_what_was_cut_is_in_the_record_and_the_user_is_told(toy_spec, tmp_path):
    from rich.console import Console

    from epi_bench.cli.summary import print_record
    from epi_bench.runs.launch import run_one

    class Listener(RunObserver):
        def __init__(self):
            self.told = []

        def warning(self, message):
            self.told.append(message)

    spec = toy_spec(tasks=ALL)
    spec = spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"max_length": 21}),
            "evaluation": spec.evaluation.model_copy(update={"max_new_tokens": 1}),
        }
    )
    listener = Listener()
    outcome = run_one(spec, RunRequest(Workspace(tmp_path)), listener)
    data = load_record(outcome.path).task_data
    assert set(data["toy_second"].answers_cut) == {"base", *ALL}
    assert data["toy_first"].answers_cut == data["toy_choice"].answers_cut == {}
    cut = data["toy_second"].answers_cut["toy_choice"]
    assert 0 < cut <= data["toy_second"].test_examples
    assert sum(f"'toy_second': {cut} of 14 answers had not ended" in m for m in listener.told) == 1
    prompts = {name: counts.prompts_cut for name, counts in data.items()}
    assert any(prompts.values())
    console = Console(record=True, width=200, file=io.StringIO())
    print_record(outcome, console)
    shown = console.export_text()
    assert f"{cut} answers at the end" in shown
    for name, count in prompts.items():
        assert any(f"{name!r}: {count} of 14 test prompts" in m for m in listener.told) == (
            count > 0
        )
        assert (f"Cut, of 14 in {name}: {count} prompts" in shown) == (count > 0)


def test_saved_model_is_loaded_by_transformers(run_toy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_toy("lora", {"rank": 2}, request={"save_model": tmp_path / "model"})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    assert not any("lora" in name for name, _ in model.named_parameters())
