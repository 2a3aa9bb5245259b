"""Plugin files: what they may do, what is refused, and what of their code is hashed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.foreign_text import for_terminal
from epi_bench.plugins.loading import REGISTRIES, load_plugin_file
from epi_bench.runs.identity import plugin_fingerprints
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.streams import STREAMS, build_stream
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.task.task import TASKS

HEAD = """
from epi_bench import (ExperiencePlan, Example, Strategy, Task, TaskCard, ask, register_strategy,
                       register_stream, register_task)
"""
STRATEGY = HEAD + "@register_strategy('mine')\nclass Mine(Strategy):\n    '''Mine.'''\n"

TASK = (
    HEAD
    + """
@register_task('mine')
class Mine(Task):
    card = TaskCard('one line', 'ability', 'generate', 'found', 'CC0-1.0')

    def examples(self, split):
        return [Example(ask('q', split), split)]
"""
)


@pytest.fixture(autouse=True)
def forget(forgotten_plugins):
    """Forgets what the test has registered so far."""
    return forgotten_plugins


@pytest.fixture
def load(tmp_path, forget):
    """Writes a plugin file and loads it, as if for the first time."""

    def write_and_load(text, name="plugin.py"):
        forget()
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        load_plugin_file(path)

    return write_and_load


BROKEN = {
    "1/0": "ZeroDivisionError: division by zero",
    "import sys; sys.exit(0)": "SystemExit: 0",
    "raise GeneratorExit": "GeneratorExit",
    "class Odd(BaseException): pass\nraise Odd('odd')": "Odd: odd",
    "raise StopIteration": "StopIteration",
    "def f(): f()\nf()": "RecursionError: maximum recursion depth",
    "def f(:": "SyntaxError",
    "x = '\0'": "SyntaxError",
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E": "cannot be shown",
    "raise ValueError('one\\ntwo\\r\\x1b[31mred \\u202e[/]')": r"one two \x1b[31mred \u202e[/]",
    "raise MemoryError": "MemoryError",
    "": "registers nothing",
    "from epi_bench.strategies.full_sft import FullSFT": "registers nothing",
    f"{HEAD}class Mine(Strategy): pass": "registers nothing",
    f"{HEAD}@register_strategy('mine')\nclass Mine: pass": "'mine' is not a strategy",
    f"{HEAD}@register_strategy('mine')\ndef mine(): pass": "'mine' is not a strategy",
    f"{HEAD}register_strategy('mine')(5)": "'mine' is not a strategy",
    f"{HEAD}@register_strategy\nclass Mine(Strategy): pass": "is not usable",
    f"{HEAD}@register_strategy('a b')\nclass Mine(Strategy): pass": "'a b' is not usable",
    f"{HEAD}@register_strategy('all')\nclass Mine(Strategy): pass": "means something else",
    f"{HEAD}@register_strategy('full_sft')\nclass Mine(Strategy): pass": "like the built-in",
    f"{TASK.replace('mine', 'mini_math')}": "like the built-in task",
    f"{TASK.replace('mine', 'mini')}": "something else than a task",
    f"{HEAD}@register_stream('mixed')\ndef mixed(tasks): return []": "like the built-in",
    f"{HEAD}@register_task('mine')\nclass Mine(Task):\n    pass": "'mine' has no card",
    TASK.partition("    def")[0]: "does not define examples()",
    f"{STRATEGY}\n@register_strategy('mine')\nclass Other(Strategy): pass": "two strategy plugins",
    f"{STRATEGY}\n@register_strategy('mine')\nclass Mine(Strategy): pass": "two strategy plugins",
    f"{STRATEGY}\nregister_strategy('again')(Mine)": "is the strategy 'mine' already",
    "from epi_bench import register_task\nfrom epi_bench.tasks.mini_math import MiniMath\n"
    "register_task('alias')(MiniMath)": "is the task 'mini_math' already",
    f"{STRATEGY}\nimport os, sys\nsys.exit('half way')": "SystemExit: half way",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=map(repr, BROKEN.values()))
def test_a_file_that_fails_is_one_line_and_leaves_nothing_registered(text, message, load):
    from epi_bench.tasks.mini_math import MiniMath

    names = [registry.names() for registry in REGISTRIES]
    with pytest.raises(UserError) as failed:
        load(text)
    told = str(failed.value)
    assert message in told
    assert "plugin.py" in told
    assert told == for_terminal(told)
    assert [registry.names() for registry in REGISTRIES] == names
    assert MiniMath.name == "mini_math"
    assert STRATEGIES.is_builtin("full_sft")
    load(STRATEGY)  # the mended file is not taken for the broken one
    assert STRATEGIES.get("mine").name == "mine"


def test_an_error_names_the_line_that_raised_it(load, tmp_path):
    with pytest.raises(UserError, match=r"plugin .*plugin\.py:3 fails to import: KeyError: 'x'"):
        load("x = 1\n\n{}['x']\n")
    with pytest.raises(UserError, match=r"plugin\.py:4: Mine of .*plugin\.py is named like"):
        load(STRATEGY.replace("'mine'", "'epi'"))


def test_ctrl_c_while_a_plugin_loads_stays_an_interrupt(load):
    with pytest.raises(KeyboardInterrupt):
        load(STRATEGY + "\nraise KeyboardInterrupt")
    assert "mine" not in STRATEGIES.names()


@pytest.mark.parametrize("name", ["none.py", "folder.py", "plugin.txt", "~nobody/x.py", "a\0.py"])
def test_what_is_no_python_file_is_refused(name, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "plugin.txt").write_text(STRATEGY)
    with pytest.raises(UserError, match=r"^plugin file"):
        load_plugin_file(Path(name) if name[0] == "~" else tmp_path / name)


def test_relative_paths_mean_the_same_after_a_plugin(load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    load(STRATEGY + "\nimport os\nos.chdir('/')")
    assert Path.cwd() == tmp_path


def test_a_file_that_fails_takes_back_what_its_imports_registered(load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_one.py").write_text(STRATEGY)
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load("import beside_one\n1/0")
    assert "mine" not in STRATEGIES.names()
    load("import beside_one")
    assert "mine" in STRATEGIES.names()


def test_two_files_of_one_name_are_refused_and_the_first_stays(load, tmp_path):
    load(STRATEGY)
    first = STRATEGIES.get("mine")
    (tmp_path / "other.py").write_text(STRATEGY)
    with pytest.raises(UserError, match="two strategy plugins are named 'mine'"):
        load_plugin_file(tmp_path / "other.py")
    load_plugin_file(tmp_path / "plugin.py")  # given twice: loaded once
    assert STRATEGIES.get("mine") is first


def test_built_in_is_what_the_built_in_module_holds(load, monkeypatch):
    from epi_bench.strategies import full_sft

    assert STRATEGIES.is_builtin("full_sft")
    assert STREAMS.is_builtin("sequential")
    load(
        f"{HEAD}@register_strategy('full_sft')\nclass FullSFT(Strategy):\n"
        "    __module__ = 'epi_bench.strategies.full_sft'\n"
    )  # says that it is the built-in
    assert not STRATEGIES.is_builtin("full_sft")
    assert STRATEGIES.code_fingerprint("full_sft")
    STRATEGIES._registered["full_sft"] = full_sft.FullSFT
    assert STRATEGIES.is_builtin("full_sft")
    load("from epi_bench.strategies.full_sft import FullSFT\nfrom epi_bench import "
         "register_strategy\n@register_strategy('mine')\nclass Mine(FullSFT): pass")  # fmt: skip
    assert not STRATEGIES.is_builtin("mine")
    assert STRATEGIES.get("full_sft").name == "full_sft"


@pytest.mark.parametrize(
    "head",
    [
        "from epi_bench.strategies.epi import EPI as Base",
        "from epi_bench import IsolationStrategy as Base, DatasetTask, protect, TrainingSpec",
    ],
)
def test_the_first_to_import_a_library_is_no_change_of_the_package(tmp_path: Path, head: str):
    """In a process of its own, as the command starts: torch is not imported yet."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        f"from epi_bench import register_strategy\n{head}\n"
        "@register_strategy('mine')\nclass Mine(Base):\n    'Mine.'\n"
    )
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from epi_bench.plugins.loading import load_plugin_file"
        "\nassert 'torch' not in sys.modules\nload_plugin_file(Path(sys.argv[1]))"
        "\nassert 'torch' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(plugin)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            "import epi_bench.spec.streams as m\nm.mix_examples = lambda *a: []",
            "streams.mix_examples",
        ),
        ("import epi_bench.strategies.l2_sp as m\nm.L2SP.penalty = lambda s, m: None", "penalty"),
        ("Strategy.check_run = lambda *a: ()", "strategy.Strategy.check_run"),
        ("Strategy.learning_rate_factor = 2.0", "Strategy.learning_rate_factor"),
        ("Strategy.begin_experience.__code__ = (lambda self, experience: 1).__code__", "begin"),
    ],
)
def test_a_plugin_that_changes_the_package_is_refused(change, place, load):
    import epi_bench.spec.streams as stream
    import epi_bench.strategies.l2_sp as l2_sp
    from epi_bench.strategy.strategy import Strategy

    holders = [stream, Strategy, l2_sp.L2SP]
    before = [dict(vars(holder)) for holder in holders]
    code = Strategy.begin_experience.__code__
    try:
        with pytest.raises(UserError, match=f"changes epi_bench.*{place}.*a plugin may only add"):
            load(f"{STRATEGY}\n{change}\n")
    finally:
        Strategy.begin_experience.__code__ = code
        for holder, members in zip(holders, before, strict=True):
            for name, value in members.items():
                if vars(holder).get(name) is not value:
                    setattr(holder, name, value)
    load(STRATEGY)


class TestCode:
    """What is hashed."""

    @staticmethod
    def code(load, text=STRATEGY, name="plugin.py"):
        load(text, name)
        return STRATEGIES.code_fingerprint("mine")

    def test_the_file_counts_and_its_place_does_not(self, load):
        assert self.code(load) == self.code(load, name="renamed.py")
        assert self.code(load) != self.code(load, STRATEGY + "\nx = 1")

    def test_what_was_loaded_counts_not_what_the_file_holds_now(self, load, tmp_path):
        before = self.code(load)
        (tmp_path / "plugin.py").write_text(STRATEGY + "\nx = 1")
        assert STRATEGIES.code_fingerprint("mine") == before

    def test_an_edit_within_the_same_second_is_loaded(self, load, tmp_path):
        import os

        for doc in ("One.", "Two."):
            load(STRATEGY.replace("Mine.", doc))
            os.utime(tmp_path / "plugin.py", (1, 1))  # a cached compilation would look current
            assert STRATEGIES.get("mine").__doc__ == doc

    @pytest.mark.parametrize(
        "statement",
        [
            "import beside_one",
            "from beside_one import VALUE",
            "def later():\n    from beside_one import VALUE",
            "import beside_package.inner",
            "from beside_package import inner",
        ],
    )
    def test_local_modules_count_and_what_they_import(self, statement, load, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / "beside_package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "inner.py").write_text("from beside_one import VALUE")
        (tmp_path / "beside_two.py").write_text("VALUE = 1")
        (tmp_path / "beside_one.py").write_text("from beside_two import VALUE")
        (tmp_path / "beside_none.py").write_text("VALUE = 1")
        text = f"{STRATEGY}\n{statement}\n"
        before = self.code(load, text)
        (tmp_path / "beside_none.py").write_text("VALUE = 2")
        assert self.code(load, text) == before
        (tmp_path / "beside_two.py").write_text("VALUE = 2")
        assert self.code(load, text) != before

    def test_the_file_that_registers_counts_for_a_class_made_elsewhere(
        self, load, tmp_path, monkeypatch
    ):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "beside_one.py").write_text(
            f"{HEAD}def make(x):\n    return type('Made', (Strategy,), {{'x': x}})"
        )
        text = "import beside_one\nfrom epi_bench import register_strategy\n"
        codes = {self.code(load, f"{text}register_strategy('mine')(beside_one.make({x}))")
                 for x in (1, 2)}  # fmt: skip
        assert len(codes) == 2

    def test_code_made_while_the_file_runs_counts_with_the_file(self, load):
        text = (
            HEAD + "scope = {{'Strategy': Strategy}}\nexec('class Made(Strategy): x = {}', scope)\n"
        )
        text += "register_strategy('mine')(scope['Made'])"
        assert self.code(load, text.format(1)) != self.code(load, text.format(2))

    def test_code_without_a_file_is_refused(self):
        from epi_bench import register_strategy

        scope = {"Strategy": STRATEGIES.get("full_sft").__mro__[1], "__name__": "nowhere"}
        exec("class Made(Strategy): pass", scope)
        register_strategy("mine")(scope["Made"])
        with pytest.raises(UserError, match="'Made' of module 'nowhere' lies in no file"):
            STRATEGIES.code_fingerprint("mine")

    def test_an_installed_package_counts_whole(self, tmp_path, monkeypatch, forget):
        from importlib.metadata import EntryPoint

        site = tmp_path / "site-packages"
        package = site / "beside_package"
        package.mkdir(parents=True)
        monkeypatch.syspath_prepend(site)
        (package / "__init__.py").write_text("")
        (package / "constants.py").write_text("SHARE = 1")
        (package / "mine.py").write_text(
            "from epi_bench import Strategy\nfrom .constants import SHARE\n"
            "class Mine(Strategy): pass\n"
        )
        point = EntryPoint("mine", "beside_package.mine:Mine", "epi_bench.strategies")
        monkeypatch.setattr("epi_bench.plugins.registry.entry_points", lambda group: [point])
        codes = []
        for share in (1, 1, 2):
            forget()
            (package / "constants.py").write_text(f"SHARE = {share}")
            codes.append(STRATEGIES.code_fingerprint("mine"))
        assert codes[0] == codes[1] != codes[2]
        assert STRATEGIES.get("mine").name == "mine"

    def test_built_ins_have_none(self):
        assert STRATEGIES.code_fingerprint("epi") is None
        assert STREAMS.code_fingerprint("mixed") is None
        assert TASKS.code_fingerprint("mini_math") is None


class TestEntryPoints:
    @staticmethod
    def announce(monkeypatch, group="epi_bench.strategies", **points):
        from importlib.metadata import EntryPoint

        found = [
            EntryPoint(name, value, group) for name, values in points.items() for value in values
        ]
        monkeypatch.setattr(
            "epi_bench.plugins.registry.entry_points",
            lambda group: [point for point in found if point.group == group],
        )

    def test_a_stream_of_a_package_is_trained_shown_and_hashed(self, monkeypatch, tmp_path, capsys):
        from epi_bench.cli.listing import list_streams, show_stream

        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "beside_one.py").write_text(
            f"{HEAD}def twice(tasks, rounds: int = 2):\n"
            '    """All tasks, again and again.\n\n    Args:\n        rounds: How often."""\n'
            "    return [ExperiencePlan(t, (t,), budget=1 / rounds) for t in tasks * rounds]\n"
        )
        self.announce(monkeypatch, "epi_bench.streams", twice=["beside_one:twice"], mixed=["x:y"])
        assert "twice" in STREAMS.names()
        plans = build_stream("twice", ("a", "b"), {"rounds": "2"})
        assert [(plan.name, plan.budget) for plan in plans] == [(n, 0.5) for n in "abab"]
        with pytest.raises(UserError, match="unknown option of stream 'twice' 'round': did you"):
            build_stream("twice", ("a",), {"round": 1})
        with pytest.raises(UserError, match="rounds='two' is not a valid int"):
            build_stream("twice", ("a",), {"rounds": "two"})
        with pytest.raises(UserError, match="unknown stream 'twixe': did you mean 'twice'"):
            build_stream("twixe", ("a",), {})
        spec = complete_spec({"stream": {"kind": "twice"}})
        assert len(plugin_fingerprints(spec)["stream:twice"]) == 64
        assert not STREAMS.is_builtin("twice")
        show_stream("twice")
        shown = capsys.readouterr().out
        assert "All tasks, again and again." in shown
        assert "How often." in shown
        assert "Args:" not in shown
        list_streams()
        printed = capsys.readouterr()
        assert re.search(r"^twice +All tasks, again and again\.", printed.out, re.MULTILINE)
        assert "stream plugin 'mixed' (x:y) is named like a built-in" in printed.err

    def test_one_that_fails_only_breaks_itself(self, monkeypatch, tmp_path):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "beside_one.py").write_text("import sys; sys.exit(0)")
        (tmp_path / "beside_two.py").write_text("Mine = 5")
        self.announce(monkeypatch, first=["beside_one:Mine"], second=["beside_two:Mine"])
        loaded, broken = STRATEGIES.load_all()
        assert "epi" in loaded
        assert [plugin.name for plugin in broken] == ["first", "second"]
        assert "SystemExit: 0" in broken[0].error
        assert "'second' is not a strategy" in broken[1].error

    def test_one_named_like_a_built_in_is_told_and_never_used(self, monkeypatch):
        self.announce(monkeypatch, full_sft=["elsewhere:Mine"])
        loaded, broken = STRATEGIES.load_all()
        assert loaded["full_sft"].__module__ == "epi_bench.strategies.full_sft"
        assert "is named like a built-in" in broken[0].error

    def test_two_of_one_name_are_refused(self, monkeypatch):
        self.announce(monkeypatch, mine=["one:Mine", "two:Mine"])
        with pytest.raises(UserError, match="several installed packages bring a strategy 'mine'"):
            STRATEGIES.get("mine")


@pytest.mark.parametrize("stop", ["raise RuntimeError('no')", "import sys; sys.exit(0)"])
def test_a_strategy_that_cannot_be_made_is_a_user_error(stop, load):
    load(f"{STRATEGY}    def __init__(self):\n        {stop}")
    with pytest.raises(UserError, match="strategy 'mine' cannot be made: "):
        create_strategy("mine", {})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[]", "it has no experience"),
        ("[tasks]", "experience 1 is not an ExperiencePlan but tuple"),
        ("5", "TypeError"),
        ("[ExperiencePlan('x', ('other',))]", "'other', which is not among the run's"),
        ("[ExperiencePlan('x', ())]", "at least one task, and none twice"),
        (
            "[ExperiencePlan('x', tasks, budget=0)]",
            "has the budget 0: it must be a positive number",
        ),
        ("[ExperiencePlan('x', tasks, budget=float('nan'))]", "has the budget nan"),
        ("[ExperiencePlan('x', tasks, evaluations=0)]", "has 0 evaluations"),
        ("[ExperiencePlan('x', tasks, mixing='stir')]", "mixing='stir': choose from concat"),
        ("[ExperiencePlan('x', tasks, weights=(1, 2, 3))]", "3 weights for 2 tasks"),
        ("1/0", "ZeroDivisionError"),
        ("None", "TypeError"),
        ("exit('over')", "cannot be built: SystemExit: over"),
        ("[ExperiencePlan('x', None)]", "has tasks=None: give a tuple of names"),
        ("[ExperiencePlan('x', 'ab')]", "has tasks='ab': give a tuple of names"),
        ("[ExperiencePlan('x', (['a'],))]", r"names the task \['a'\], which is not among"),
        ("[ExperiencePlan('x', ('a', 'a'))]", "at least one task, and none twice"),
        ("[ExperiencePlan('', tasks)]", "must have a name of one line"),
        ("[ExperiencePlan('x\\ny', tasks)]", "must have a name of one line"),
        ("[ExperiencePlan(5, tasks)]", "must have a name of one line"),
        ("[ExperiencePlan('x', tasks, budget=-1)]", "has the budget -1"),
        ("[ExperiencePlan('x', tasks, budget='1')]", "has the budget '1'"),
        ("[ExperiencePlan('x', tasks, budget=True)]", "has the budget True"),
        ("[ExperiencePlan('x', tasks, evaluations=1.5)]", "has 1.5 evaluations"),
        ("[ExperiencePlan('x', tasks, weights=5)]", "has weights=5: give one positive number"),
        ("[ExperiencePlan('x', tasks, weights=(1, -1))]", "has weights=.* one positive number"),
        ("iter(lambda: ExperiencePlan('x', tasks), None)", "more than 10000 experiences"),
    ],
)
def test_a_stream_that_cannot_be_trained_is_refused(body, message, load):
    load(f"{HEAD}@register_stream('mine')\ndef mine(tasks):\n    return {body}\n")
    with pytest.raises(UserError, match=message) as refused:
        build_stream("mine", ("a", "b"), {})
    assert str(refused.value).startswith("stream 'mine' cannot be ")


@pytest.mark.parametrize("line", ["__file__ = 5", "__file__ = None"])
def test_a_module_that_hides_its_own_file_is_refused(tmp_path, line, forgotten_plugins):
    from epi_bench.plugins.loading import load_plugin_file

    path = tmp_path / "odd.py"
    path.write_text(
        "from epi_bench import Strategy, register_strategy\n"
        f"@register_strategy('odd')\nclass Odd(Strategy): pass\n{line}\n"
    )
    with pytest.raises(UserError, match=r"'Odd' of module .* lies in no file"):
        load_plugin_file(path)
    assert "odd" not in STRATEGIES.names()
