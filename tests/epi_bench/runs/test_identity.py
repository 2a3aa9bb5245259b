"""What makes two runs the same run."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import pytest
from pydantic import BaseModel

from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_file
from epi_bench.runs.identity import (
    TOLD_ONLY,
    plugin_fingerprints,
    run_id,
    task_fingerprint,
)
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.streams import complete_stream_options
from epi_bench.strategy.strategy import complete_strategy_options
from epi_bench.task.example import Example, ask
from epi_bench.task.rows.source import DataSource
from epi_bench.task.task import Task, TaskCard

LEADERBOARDS = Path(__file__).parents[3] / "leaderboards"


def identity(fingerprints=None, **values):
    return run_id(complete_spec(values), fingerprints or {})


def epi(**options):
    return {"strategy": {"name": "epi", "options": options}}


def test_a_default_said_aloud_is_the_same_run():
    from epi_bench.plugins.options import options_of
    from epi_bench.strategy.strategy import STRATEGIES

    defaults = {n: o.default for n, o in options_of(STRATEGIES.get("epi")).items()}
    assert identity(**epi()) == identity(**epi(**defaults))
    assert identity(**epi()) == identity(**epi(ratio=str(defaults["ratio"])))
    mixed = {"kind": "mixed"}
    assert identity(stream=mixed) == identity(stream={**mixed, "options": {"mixing": "concat"}})
    assert identity(seed=0) == identity()


def test_a_setting_that_changes_results_makes_another_run():
    runs = [
        identity(),
        identity(strategy={"name": "full_sft"}),
        identity(**epi(ratio=0.25)),
        identity(seed=1),
        identity(stream={"kind": "mixed"}),
        identity(stream={"order": "random"}),
        identity(training={"learning_rate": 0.5}),
        identity({"model": "0123"}),
    ]
    assert len(set(runs)) == len(runs)


def test_a_changed_default_of_a_strategy_makes_another_run(monkeypatch):
    from epi_bench.strategy.strategy import STRATEGIES

    before = identity(**epi())
    constructor = STRATEGIES.get("epi").__init__
    changed = (0.125, *constructor.__defaults__[1:])
    monkeypatch.setattr(constructor, "__defaults__", changed)
    assert identity(**epi()) != before


def test_the_evaluation_batch_cannot_change_a_result():
    assert identity(evaluation={"batch_size": 7}) == identity(evaluation={"batch_size": 70})


def test_completed_options_are_taken_as_they_are():
    """What a prepared run keeps of its options makes the identity that its specification makes."""
    spec = complete_spec({**epi(ratio=0.25), "stream": {"kind": "mixed"}})
    completed = {
        "strategy_options": complete_strategy_options("epi", {"ratio": 0.25}),
        "stream_options": complete_stream_options("mixed", {}),
    }
    assert run_id(spec, {}, **completed) == run_id(spec, {})
    other = {**completed["strategy_options"], "ratio": 0.5}
    assert run_id(spec, {}, strategy_options=other) == identity(
        **epi(ratio=0.5), stream={"kind": "mixed"}
    )


def test_an_unknown_option_is_refused():
    with pytest.raises(UserError, match="ratio"):
        identity(**epi(ration=0.5))


@pytest.mark.parametrize("name", ["epi", "static_mask", "inverted_mask"])
def test_an_option_added_later_makes_another_run_only_where_it_differs(name, monkeypatch):
    from epi_bench.strategy.strategy import STRATEGIES

    cls = STRATEGIES.get(name)
    plain = identity(strategy={"name": name})

    def with_options(**options):
        return identity(strategy={"name": name, "options": options})

    assert with_options(importance="ema", offload=False) == plain
    others = [with_options(importance=m) for m in ("ema_bf16", "factored", "optimizer")]
    assert len({plain, *others}) == 4
    # the value left out is the one of the published runs, not whatever the default becomes
    defaults = cls.__init__.__defaults__
    changed = tuple("ema_bf16" if value == "ema" else value for value in defaults)
    monkeypatch.setattr(cls.__init__, "__defaults__", changed)
    assert with_options() == others[0]
    assert with_options(importance="ema") == plain


def test_published_runs_keep_their_identity():
    from epi_bench.results.record.record_file import load_record
    from epi_bench.strategy.strategy import STRATEGIES

    paths = sorted(LEADERBOARDS.glob("*/*.json"))
    if not paths:
        pytest.skip("this copy has no published records")
    checked = 0
    for path in paths:
        record = load_record(path)
        if not STRATEGIES.is_builtin(record.strategy.name):
            continue
        checked += 1
        tasks = {f"task:{name}": value for name, value in record.fingerprints.tasks.items()}
        fingerprints = {"model": record.fingerprints.model, **tasks}
        assert run_id(record.spec, fingerprints, record.environment.execution) == record.run_id, (
            path
        )
    assert checked > len(paths) / 2


class TestEachInput:
    """Whatever can change a run's numbers makes another run, one input at a time."""

    CANNOT_CHANGE_A_NUMBER = ("evaluation.batch_size",)

    OTHER = MappingProxyType(
        {
            "strategy.name": "full_sft",
            "strategy.options": {"ratio": 0.25},
            "stream.kind": "mixed",
            "data.tasks": ("mini_math",),
            "data.eval_tasks": ("gsm8k",),
            "training.steps": 7,
        }
    )
    """Values that only make sense as they are; the others are found by type."""

    @staticmethod
    def leaves(spec):
        for name in type(spec).model_fields:
            value = getattr(spec, name)
            if isinstance(value, BaseModel):
                yield from (f"{name}.{leaf}" for leaf in type(value).model_fields)
            else:
                yield name

    @classmethod
    def changed(cls, spec, leaf):
        """The specification with one setting changed to any other value that it may have."""
        *sections, name = leaf.split(".")
        part = getattr(spec, sections[0]) if sections else spec
        field = type(part).model_fields[name]
        choices = [*get_args(field.annotation), *(a for t in get_args(field.annotation)
                   for a in get_args(t)), not getattr(part, name), 77, 0.125, "other"]  # fmt: skip
        for value in [cls.OTHER[leaf]] if leaf in cls.OTHER else choices:
            content = {**part.model_dump(), name: value}
            if name in ("steps", "epochs"):
                content["steps" if name == "epochs" else "epochs"] = None
            try:
                other = type(part).model_validate(content)
            except ValueError:
                continue
            if other != part:
                return spec.model_copy(update={sections[0]: other} if sections else {name: value})
        raise AssertionError(f"no other value for {leaf}: name one in OTHER")

    def test_each_setting(self):
        base = complete_spec({})
        identities = {"": run_id(base, {})}
        for leaf in self.leaves(base):
            if leaf not in (
                *self.CANNOT_CHANGE_A_NUMBER, "stream.options", "data.options", "data.general_text"
            ):  # fmt: skip
                identities[leaf] = run_id(self.changed(base, leaf), {})
        mixed = base.model_copy(update={"stream": base.stream.model_copy(update={"kind": "mixed"})})
        options = {"options": {"mixing": "interleave_under"}}
        stream = mixed.stream.model_copy(update=options)
        identities["stream.options"] = run_id(mixed.model_copy(update={"stream": stream}), {})
        marks = {"gsm8k": {"keep_calculator_marks": True}}
        for options in ({}, marks):
            data = {"tasks": ["gsm8k"], "options": options}
            identities[f"data.options {options}"] = identity(data=data)
        assert len(set(identities.values())) == len(identities)
        for leaf in self.CANNOT_CHANGE_A_NUMBER:
            assert run_id(self.changed(base, leaf), {}) == identities[""]
        given = self.changed(base, "data.general_text")  # a text is known by its content
        assert run_id(given, {"text:general_text": "b"}) != run_id(
            given, {"text:general_text": "a"}
        )

    def test_each_part_of_an_example(self):
        def hashed(**changes):
            parts = {
                "messages": ask("question", "answer"),
                "reference": "answer",
                "options": ("answer", "other"),
                "meta": {"tests": "assert f(1) == 2"},
            }
            return task_fingerprint(_Toy(), [Example(**{**parts, **changes})])

        found = {
            hashed(),
            hashed(messages=ask("Question", "answer")),
            hashed(messages=ask("question", "Answer")),
            hashed(messages=({"role": "system", "content": "question"}, ask("", "answer")[1])),
            hashed(reference="other"),
            hashed(options=("other", "answer")),
            hashed(meta={"tests": "assert f(1) == 3"}),
            hashed(meta={}),
        }
        assert len(found) == 8
        assert hashed() == hashed()

    def test_each_field_of_a_card_that_changes_a_score(self):
        others = {
            "summary": "another",
            "ability": "another",
            "licence": "another",
            "chance": 50.0,
            "source": DataSource("a", None, "main", {}, {}),
            "needs_code_execution": True,
            "scoring": "generate",
            "metric": "acc_norm",
            "max_new_tokens": 7,
            "higher_is_better": False,
            "metric_range": (0.0, 2.0),
            "version": 2,
            "units": {"acc_norm": "shares"},
        }
        assert set(others) == {field.name for field in fields(TaskCard)}
        example = Example(ask("question", "answer"), "answer")
        same = set()
        found = {task_fingerprint(_Toy(), [example])}
        for name, value in others.items():
            task = _Toy()
            task.card = replace(_Toy.card, **{name: value})
            identity = task_fingerprint(task, [example])
            if identity in found:
                same.add(name)
            found.add(identity)
        assert same == set(TOLD_ONLY)

    def test_a_field_of_a_card_at_its_default_leaves_the_fingerprint_alone(self):
        """So a field that a later version adds makes no other run of an older card."""

        @dataclass(frozen=True)
        class LaterCard(TaskCard):
            penalty: float = 0.0
            weights: dict = field(default_factory=dict)

        def hashed(card):
            task = _Toy()
            task.card = card
            return task_fingerprint(task, [Example(ask("question", "answer"), "answer")])

        shared = {field.name: getattr(_Toy.card, field.name) for field in fields(TaskCard)}
        assert hashed(LaterCard(**shared)) == hashed(_Toy.card)
        assert hashed(LaterCard(**shared, penalty=0.5)) != hashed(_Toy.card)
        assert hashed(LaterCard(**shared, weights={"a": 2})) != hashed(_Toy.card)

    def test_what_a_scorer_keeps_may_be_anything(self):
        def hashed(meta):
            return task_fingerprint(_Toy(), [Example(ask("q", "a"), "a", meta=meta)])

        assert hashed({"x": object()}) == hashed({"x": object()})  # an address is no content
        assert hashed({"x": {"b", "a"}}) == hashed({"x": {"a", "b"}})
        assert hashed({"x": {"b", "a"}}) != hashed({"x": {"b", "c"}})
        assert hashed({"x": "\udcff"}) != hashed({"x": "\udcfe"})

    def test_each_plugin_that_takes_part(self, toy_spec, tmp_path, forgotten_plugins):
        from epi_bench.runs.preparation import prepare_run

        texts = {
            "strategy": "from epi_bench import Strategy, register_strategy\n"
            "@register_strategy('mine')\nclass Mine(Strategy): pass\n",
            "stream": "from epi_bench import ExperiencePlan, register_stream\n"
            "@register_stream('mine')\ndef mine(tasks):\n"
            "    return [ExperiencePlan(task, (task,)) for task in tasks]\n",
            "task": "from epi_bench import Example, Task, TaskCard, ask, register_task\n"
            "@register_task('mine')\nclass Mine(Task):\n"
            "    card = TaskCard('s', 'a', 'generate', 'found', 'CC0-1.0')\n"
            "    def examples(self, split): return [Example(ask('red', 'blue'), 'blue')] * 8\n"
            "    def score(self, example, prediction): return {'found': 1.0}\n",
            "bystander": "from epi_bench import Strategy, register_strategy\n"
            "@register_strategy('bystander')\nclass Bystander(Strategy): pass\n",
        }
        spec = toy_spec("mine", tasks=["toy_first", "mine"], stream={"kind": "mine"})

        def prepared(edited=None):
            forgotten_plugins()
            for name, text in texts.items():
                path = tmp_path / f"{name}.py"
                path.write_text(text + ("# edited\n" if name == edited else ""))
                load_plugin_file(path)
            return prepare_run(spec)

        plain = prepared()
        assert set(plain.plugins) == {"strategy:mine", "stream:mine", "task:mine", "task:toy_first"}
        assert prepared("bystander").run_id == plain.run_id
        others = [prepared(name) for name in ("strategy", "stream", "task")]
        assert len({plain.run_id, *(other.run_id for other in others)}) == 4
        # other scoring is another track, another strategy is not
        tasks = [other.fingerprints["task:mine"] for other in others]
        assert tasks[0] == tasks[1] == plain.fingerprints["task:mine"] != tasks[2]

    def test_a_plugin_cannot_run_as_a_built_in(self, tmp_path, forgotten_plugins):
        path = tmp_path / "shadow.py"
        path.write_text(
            "from epi_bench import Strategy\nfrom epi_bench.strategies import full_sft\n"
            "from epi_bench.strategy.strategy import STRATEGIES\n"
            "from epi_bench import register_strategy\n"
            "class FullSFT(Strategy): pass\n"
            "STRATEGIES._registered['full_sft'] = FullSFT\n"
            "@register_strategy('mine')\nclass Mine(Strategy): pass\n"
        )
        load_plugin_file(path)
        spec = complete_spec({"strategy": {"name": "full_sft"}})
        assert set(plugin_fingerprints(spec)) == {"strategy:full_sft"}

    def test_the_scoring_of_a_task_file(self, tmp_path, forgotten_plugins):
        from epi_bench.task.files.file_task import load_task_file

        (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n' * 4)
        text = (
            'name = "mine"\n[source]\ntrain = "rows.jsonl"\ntest = "rows.jsonl"\n[example]\n'
            'prompt = "{{ q }}"\nanswer = "{{ a }}"\n[scoring]\nmode = "generate"\n'
        )

        def hashed(scoring):
            (tmp_path / "mine.toml").write_text(text + scoring)
            task = load_task_file(tmp_path / "mine.toml")(None)
            return task_fingerprint(task, task.examples("test"))

        found = [hashed(s) for s in ('metric = "exact_match"', 'metric = "rouge_l"',
                 'metric = "exact_match"\nmax_new_tokens = 9')]  # fmt: skip
        assert len(set(found)) == 3


class _Toy(Task):
    """Has a card and no examples of its own."""

    card = TaskCard("one line", "ability", "choice", "acc", "CC0-1.0")

    def examples(self, split):
        return []
