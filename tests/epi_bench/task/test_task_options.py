"""Options of tasks: set by a user, checked, part of the run's identity and of its track."""

from __future__ import annotations

import sys
import tomllib

import pytest

from epi_bench import Example, Task, TaskCard, ask, register_task
from epi_bench.api.selection import Selection
from epi_bench.errors import UserError
from epi_bench.results.record.track import make_track, track_facts
from epi_bench.runs.identity import run_id, task_fingerprint
from epi_bench.runs.references import reference_spec
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.toml import spec_to_toml
from epi_bench.task.task import changed_task_options, create_task


@pytest.fixture(autouse=True)
def counted(forgotten_plugins):
    """A task whose options change its examples (``repeat``) or its scoring alone (``strict``)."""
    forgotten_plugins()

    @register_task("counted")
    class Counted(Task):
        """Says a word.

        Args:
            data_dir: Unused.
            repeat: How often the word is said.
            strict: Whether spaces count.
        """

        card = TaskCard("one line", "ability", "generate", "found", "CC0-1.0")

        def __init__(self, data_dir=None, *, repeat: int = 1, strict: bool = True):
            if repeat < 1:
                raise UserError(f"repeat={repeat}: say it at least once")
            super().__init__(data_dir)
            self.repeat, self.strict = repeat, strict

        def examples(self, split):
            return [Example(ask("say", "red" * self.repeat), "red")]

        def score(self, example, prediction):
            return {"found": 1.0}

    return Counted


def spec_of(options=None, **data):
    content = {"tasks": ["counted", "mini_math"], "options": options or {}, **data}
    return complete_spec({"data": content})


def select(*assignments, tasks="counted,mini_math", config=None):
    (spec,) = Selection(
        given={}, strategies="full_sft", strategy_options=[], tasks=tasks, stream_options=[],
        seeds=1, config=config, plugins=[], data_dir=None, task_options=assignments,
    ).specs()  # fmt: skip
    return spec


def test_options_reach_the_task():
    made = create_task("counted", None, {"repeat": "3", "strict": "false"})
    assert (made.repeat, made.strict) == (3, False)
    assert made.examples("train")[0].messages[-1]["content"] == "redredred"
    assert create_task("counted").repeat == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repaet": 2}, "unknown option of task 'counted' 'repaet': did you mean 'repeat'?"),
        ({"data_dir": "x"}, "unknown option of task 'counted' 'data_dir'"),
        ({"repeat": "often"}, "task 'counted': repeat='often' is not a valid int"),
        ({"repeat": 0}, "repeat=0: say it at least once"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_task("counted", None, options)


def test_options_at_their_default_leave_the_run_as_it_is():
    plain = run_id(spec_of(), {})
    assert run_id(complete_spec({"data": {"tasks": ["counted", "mini_math"]}}), {}) == plain
    for options in ({"counted": {}}, {"counted": {"repeat": 1}}, {"counted": {"strict": "true"}}):
        assert run_id(spec_of(options), {}) == plain
    mini = complete_spec({"data": {"options": {"mini_math": {}}}})
    assert run_id(mini, {}) == run_id(complete_spec({}), {})


def test_other_options_make_another_run_and_another_track():
    protocols = dict.fromkeys(("counted", "mini_math"), ("generate", "found", 1))

    def names(options):
        spec = spec_of(options)
        prints = dict.fromkeys(protocols, "f")
        track = make_track(track_facts(spec, "m", prints, protocols, stream_options={}))
        return run_id(spec, {}), track.name

    several = [{}, {"counted": {"repeat": 2}}, {"counted": {"repeat": 3}},
               {"counted": {"strict": False}}]  # fmt: skip
    runs, tracks = zip(*map(names, several), strict=True)
    assert len(set(runs)) == len(set(tracks)) == len(several)
    assert names({"counted": {"repeat": "2"}}) == names({"counted": {"repeat": 2, "strict": True}})


def test_an_option_that_changes_the_scoring_alone_changes_the_fingerprint(counted):
    def fingerprint(**options):
        task = create_task("counted", None, options)
        changed = changed_task_options({"counted": options}).get("counted")
        return task_fingerprint(task, task.examples("test"), None, changed)

    assert fingerprint() == fingerprint(strict=True) == fingerprint(repeat="1")
    assert len({fingerprint(), fingerprint(strict=False), fingerprint(repeat=2)}) == 3


def test_a_reference_has_the_options_of_its_task_alone():
    spec = spec_of({"counted": {"repeat": 2}})
    assert reference_spec(spec, "counted").data.options == {"counted": {"repeat": 2}}
    other = complete_spec({"data": {"tasks": ["counted", "mini_math"]}})
    assert reference_spec(spec, "mini_math") == reference_spec(other, "mini_math")


def test_flags_give_options_and_the_file_of_a_run_repeats_them(tmp_path):
    spec = select("counted.repeat=2", "counted.strict=no")
    assert spec.data.options == {"counted": {"repeat": 2, "strict": False}}
    assert select("repeat=2", tasks="counted").data.options == {"counted": {"repeat": 2}}
    path = tmp_path / "run.toml"
    path.write_text(spec_to_toml(spec))
    assert tomllib.loads(path.read_text())["data"]["options"]["counted"]["repeat"] == 2
    assert select(tasks=None, config=path) == spec
    over = select("counted.repeat=5", tasks=None, config=path)
    assert over.data.options == {"counted": {"repeat": 5, "strict": False}}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["repeat=2"], "say which one: --task-option counted.repeat=2"),
        (["countd.repeat=2"], "unknown task of this run 'countd': did you mean 'counted'?"),
        (["counted.repaet=2"], "unknown option of task 'counted' 'repaet': did you mean"),
        (["counted.repeat"], "'counted.repeat' is not an assignment"),
        (["mini_math.repeat=2"], "unknown option of task 'mini_math' 'repeat'"),
    ],
)
def test_wrong_flags_are_one_line(assignments, message):
    with pytest.raises(UserError, match=message):
        select(*assignments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data.options.alpaca]\nx = 1", "options of 'alpaca', which is not among the run's tasks"),
        ("data = 5", "data=5: input should be a valid dictionary"),
        ("[data]\noptions = 5", "data.options=5: input should be a valid dictionary"),
        ("[data.options]\ncounted = 5", "data.options.counted=5: input should be a valid dict"),
    ],
)
@pytest.mark.parametrize("assignments", [(), ("counted.repeat=2",)])
def test_wrong_files_are_one_line(text, message, assignments, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        select(*assignments, config=path)


def test_show_tells_options_and_shows_their_effect(monkeypatch, capsys):
    from epi_bench.cli.app import main

    def show(*arguments):
        monkeypatch.setattr(sys, "argv", ["epi-bench", "tasks", "show", "counted", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    _, plain = show()
    assert "How often the word is said." in plain.out
    assert "data_dir" not in plain.out
    assert "⟦red<" in plain.out
    assert "⟦redred<" in show("--task-option", "repeat=2")[1].out
    code, refused = show("--task-option", "repaet=2")
    assert code == 2
    assert refused.err.startswith("epi-bench: unknown option of task 'counted' 'repaet'")
