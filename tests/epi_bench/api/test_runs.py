"""Runs from Python: one, several, and a model's scores without training."""

from __future__ import annotations

import pytest

import epi_bench
from epi_bench.errors import UserError
from epi_bench.runs.observer import RunObserver

SETTINGS = {
    "data": {"max_length": 64},
    "training": {"steps": 3, "batch_size": 4},
    "evaluation": {"probe_examples": 0, "batch_size": 50},
    "threads": 1,
}
TASKS = ["toy_first", "toy_choice"]


@pytest.fixture
def common(toy_model, toy_tasks, tmp_path):
    where = epi_bench.Where(out=tmp_path, plugins=[toy_tasks])
    return {"model": toy_model, "tasks": TASKS, "settings": SETTINGS, "where": where}


class Titles(RunObserver):
    def __init__(self):
        self.heard = []

    def run_started(self, run_id, title, total_steps, tasks):
        self.heard.append(title)


def test_one_run_and_the_same_again(common, tmp_path):
    listener = Titles()
    record = epi_bench.run("epi", options={"ratio": 0.25}, seed=7, observer=listener, **common)
    assert record.spec.strategy.options == {"ratio": 0.25}
    assert (record.spec.seed, record.spec.training.steps) == (7, 3)
    assert listener.heard == ["epi · sequential · seed 7"]
    again = epi_bench.run("epi", options={"ratio": "0.25"}, seed=7, observer=listener, **common)
    assert again == record  # the text is converted as on the command line, and nothing is trained
    assert len(listener.heard) == 1
    assert epi_bench.run_spec(record.spec, where=common["where"], observer=listener) == record
    assert epi_bench.load_results(tmp_path).records == (record,)


def test_a_model_scores_as_in_a_runs_first_row(common, toy_model, toy_tasks):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    record = epi_bench.run("full_sft", observer=RunObserver(), **common)
    base = dict(zip(TASKS, record.score_matrix.values[0], strict=True))
    errors = dict(zip(TASKS, record.score_matrix.standard_errors[0], strict=True))
    model = AutoModelForCausalLM.from_pretrained(toy_model).train()
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    for given in ({"model": toy_model}, {"model": model, "tokenizer": tokenizer}):
        scores = epi_bench.evaluate(tasks=TASKS, plugins=toy_tasks, max_length=64, **given)
        assert {name: found.mean for name, found in scores.items()} == base
        assert {name: found.standard_error for name, found in scores.items()} == errors
    assert model.training
    few = epi_bench.evaluate(model, "toy_first", tokenizer=tokenizer, test_examples=5)
    assert len(few["toy_first"].items) == 5


def test_strategies_side_by_side_with_a_failing_one(common, tmp_path, forgotten_plugins):
    (tmp_path / "failing.py").write_text(
        "from epi_bench import Strategy, register_strategy\n"
        "@register_strategy('failing')\nclass Failing(Strategy):\n"
        "    def end_experience(self, experience):\n        raise RuntimeError('on purpose')\n"
    )
    plugins = [*common["where"].plugins, tmp_path / "failing.py"]
    common["where"] = epi_bench.Where(out=tmp_path, plugins=plugins)
    results = epi_bench.compare(
        {"a half": ("epi", {"ratio": 0.5}), "plain": ("full_sft", {}), "bad": ("failing", {})},
        seeds=[4],
        observer=RunObserver(),
        **common,
    )
    assert {results.label_of(record) for record in results} == {"a half", "plain"}
    assert [outcome.reason for outcome in results.failures] == ["RuntimeError: on purpose"]
    assert {record.spec.seed for record in results} == {4}
    assert results.difference("a half", "plain").items.n > 0
    with pytest.raises(
        epi_bench.RunFailedError, match="failing, seed 4: RuntimeError: on"
    ) as error:
        epi_bench.run("failing", seed=4, observer=RunObserver(), **common)
    assert error.value.record.status == "failed"
    assert error.value.path.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "epy"}, "unknown strategy 'epy': did you mean"),
        ({"options": {"ratioo": 1}}, "did you mean 'ratio'"),
        ({"options": {"ratio": 1.5}}, "must lie in"),
        ({"tasks": "mini_meth"}, "unknown task 'mini_meth': did you mean 'mini_math'"),
        ({"tasks": []}, "tasks names no task"),
        ({"tasks": "nowhere.toml"}, "cannot read nowhere.toml"),
        ({"stream": "sequentail"}, "did you mean 'sequential'"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"settings": {"trainning": {}}}, "unknown setting 'trainning': did you mean 'training'"),
        ({"settings": {"training": {"step": 1}}}, "did you mean 'training.steps'"),
        ({"settings": {"training": 5}}, "training=5 must be a mapping"),
        ({"settings": 5}, "settings must be a mapping"),
        ({"settings": {"training": {"steps": 0}}}, "training.steps=0"),
        ({"settings": {"model": {"name": "x"}}}, "model.name: it is the argument model"),
        ({"settings": {"seed": 1}}, "seed: it is the argument seed"),
        ({"settings": {"strategy": {"name": "epi"}}}, "strategy: it is the argument strategy"),
        ({"settings": {"data": {"tasks": ["mini"]}}}, "data.tasks: it is the argument tasks"),
        ({"model": "./nowhere"}, "model folder nowhere does not exist"),
        ({"model": 5}, "model is a int: a run is repeated from its files, so give a folder"),
        ({"where": epi_bench.Where(data_dir="nowhere")}, "data folder nowhere does not exist"),
        ({"where": epi_bench.Where(plugins=["no.py"])}, "plugin file .*no.py does not exist"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        epi_bench.run(observer=RunObserver(), **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategies": []}, "strategies names no strategy"),
        ({"strategies": {"a": ("epi", 5)}}, "'a' must give a name and its options"),
        ({"seeds": 0}, "seeds=0 must lie between 1 and 10,000"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"jobs": 0}, "jobs=0 must be at least 1"),
        ({"backend": "dask"}, "unknown backend 'dask'"),
        ({"backend": "ray", "jobs": 2}, "leave jobs out"),
        (
            {"where": epi_bench.Where(save_model="m")},
            "save_model keeps one model, but 2 runs were asked for",
        ),
    ],
    ids=str,
)
def test_wrong_comparisons_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        epi_bench.compare(
            **{"strategies": ["epi", "full_sft"], "observer": RunObserver(), **arguments}
        )
    assert not list(tmp_path.iterdir())


def test_all_strategies_leave_out_what_would_be_full_fine_tuning_again(monkeypatch):
    asked = []

    def record_specs(specs, request, jobs, observer):
        asked.extend(specs)
        return iter(())

    monkeypatch.setattr("epi_bench.api.runs.make_runs", record_specs)
    stream = epi_bench.StreamSpec(kind="mixed")
    epi_bench.compare("all", seeds=2, stream=stream, observer=RunObserver())
    names = {spec.strategy.name for spec in asked}
    assert {"full_sft", "epi"} <= names
    assert not {"ewc", "replay"} & names
    assert len(asked) == 2 * len(names)


def test_a_cluster_of_the_caller_makes_the_runs(monkeypatch):
    asked = []

    def record_backend(specs, request, backend, observer):
        asked.append(backend)
        return iter(())

    monkeypatch.setattr("epi_bench.api.runs.make_runs", record_backend)
    cluster = epi_bench.RayCluster("auto", gpus_per_run=0.5, timeout=60, retries=1)
    for backend in (cluster, "ray", "local"):
        epi_bench.compare(["epi"], backend=backend, observer=RunObserver())
    assert asked[0] is cluster
    assert isinstance(asked[1], epi_bench.RayCluster)
    assert asked[2] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tiny", "tokenizer": "mine"}, "brings its tokenizer"),
        ({"model": 5}, "model is a int"),
        ({"model": "tiny", "tasks": []}, "tasks names no task"),
        ({"model": "tiny", "tasks": "mini_math", "test_examples": 10**9}, "were asked for"),
        ({"model": "tiny", "tasks": "humaneval"}, "scored by running code"),
    ],
    ids=str,
)
def test_what_cannot_be_evaluated(arguments, message):
    with pytest.raises(UserError, match=message):
        epi_bench.evaluate(**arguments)


def test_a_model_in_memory_needs_its_tokenizer(toy_model):
    from transformers import AutoModelForCausalLM

    with pytest.raises(UserError, match="needs its tokenizer"):
        epi_bench.evaluate(AutoModelForCausalLM.from_pretrained(toy_model), "mini_math")
