"""From names, flags and a TOML file to the specifications of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from epi_bench.api.strategy_names import chosen_strategies, nothing_left
from epi_bench.errors import UserError, short_repr, unknown_name
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.runs.many_runs import expand
from epi_bench.spec.defaults import complete_spec, overlay_settings
from epi_bench.spec.explain import explain_validation
from epi_bench.spec.run_spec import LARGEST_INTEGER, MINI_TASKS, RunSpec, Section, StrategySpec
from epi_bench.spec.toml import read_toml
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.task.files.selection import TaskSelection, select_tasks
from epi_bench.task.files.suites import builtin_suites
from epi_bench.task.harness_task import use_task_folder

EMPTY: Mapping[str, Any] = MappingProxyType({})

MOST_SEEDS = 10_000
"""Runs of a strategy that are asked for at once."""


class Locations(Section):
    """The table ``[locations]``: what a file says beside the specification."""

    data_dir: str | None = None
    plugins: tuple[str, ...] = ()
    task_files: tuple[str, ...] = ()
    lm_eval_path: str | None = None


class _BesideTheSpec(Section):
    """What is read of a file before its specification is complete."""

    locations: Locations = Locations()
    strategy: StrategySpec = StrategySpec()


@dataclass
class Selection:
    """What the user asked for; flags override the file.

    Attributes:
        given: Settings from flags, nested as in the specification; ``None`` where not given.
        strategies: Value of ``--strategy``: names, families and ``all``.
        strategy_options: Values of ``--set``.
        tasks: Value of ``--tasks``.
        eval_tasks: Value of ``--eval-tasks``.
        stream_options: Values of ``--stream-option``.
        task_options: Values of ``--task-option``.
        seeds: How many.
        config: TOML file, or ``None``.
        plugins: Values of ``--plugin``.
        data_dir: Value of ``--data-dir``.
        lm_eval_path: Value of ``--lm-eval-path``.
        left_out: Strategies of ``all`` or of a family that are left out, because on so short a
            stream they are full fine-tuning; known once :meth:`specs` has been called.
        refusing: The same of those that cannot train the run's adapter.
    """

    given: Mapping[str, Any]
    strategies: str | None
    strategy_options: Sequence[str]
    tasks: str | None
    stream_options: Sequence[str]
    seeds: int
    config: Path | None
    plugins: Sequence[Path]
    data_dir: Path | None
    task_options: Sequence[str] = ()
    eval_tasks: str | None = None
    lm_eval_path: Path | None = None
    left_out: list[str] = field(init=False, default_factory=list)
    refusing: list[str] = field(init=False, default_factory=list)
    _by_name: frozenset[str] = field(init=False, default=frozenset())
    _file: dict[str, Any] = field(init=False, default_factory=dict)
    _selected: TaskSelection = field(init=False, default_factory=TaskSelection)
    _scored: TaskSelection = field(init=False, default_factory=TaskSelection)

    def __post_init__(self) -> None:
        self._file = read_toml(self.config) if self.config else {}
        self._locations = _checked(locations=self._file.pop("locations", {})).locations

    @property
    def plugin_files(self) -> list[Path]:
        """From the file and from flags."""
        return [*map(Path, self._locations.plugins), *self.plugins]

    @property
    def data_folder(self) -> Path | None:
        """From the flag, else from the file.

        Raises:
            UserError: If the folder does not exist.
        """
        in_file = self._locations.data_dir
        folder = self.data_dir or (Path(in_file) if in_file else None)
        return existing_folder(folder) if folder else None

    @property
    def harness_folder(self) -> Path | None:
        """With tasks of lm-evaluation-harness; from the flag, else from the file."""
        in_file = self._locations.lm_eval_path
        return self.lm_eval_path or (Path(in_file) if in_file else None)

    @property
    def task_files(self) -> list[Path]:
        """Files that describe the tasks of :meth:`specs`, which must have been called."""
        return files_of(self._selected, self._scored)

    def specs(self) -> list[RunSpec]:
        """One specification a run.

        Raises:
            UserError: For unknown names, malformed options and values out of range.
        """
        load_plugin_files(self.plugin_files)
        if self.harness_folder is not None:
            use_task_folder(self.harness_folder)
        settings = _without_none(self.given)
        merged = overlay_settings(self._file, settings)
        self._selected = self._select_tasks("tasks", self.tasks)
        self._scored = self._select_tasks("eval_tasks", self.eval_tasks)
        if self.stream_options:
            options = dict(map(split_assignment, self.stream_options))
            merged = overlay_settings(merged, {"stream": {"options": options}})
        data = merged.setdefault("data", {})
        if self.task_options and isinstance(data, dict):
            tasks = [*(self._selected.names or MINI_TASKS), *self._scored.names]
            data["options"] = _with_task_options(data.get("options", {}), self.task_options, tasks)
        in_file = _checked(strategy=merged.pop("strategy", {})).strategy
        strategies = self._strategies(in_file)
        spec = spec_on_tasks(merged, self._selected, self._scored)
        idle = idle_strategies(strategies, spec) if set(strategies) - self._by_name else []
        self.left_out = [name for name in idle if name not in self._by_name]
        refusing = strategies_without_adapter(strategies, spec)
        self.refusing = [name for name in refusing if name not in self._by_name]
        chosen = {k: v for k, v in strategies.items() if k not in (*self.left_out, *self.refusing)}
        if not chosen:
            raise nothing_left((self.strategies or "").split(","), bool(self.refusing))
        return expand(spec, chosen, counted_seeds(spec.seed, self.seeds))

    def _select_tasks(self, key: str, flag: str | None) -> TaskSelection:
        """Tasks from the flag, else from the file, whose paths are relative to it.

        Args:
            key: Where they stand in the section ``data``.
            flag: The flag's value.
        """
        folder = self.config.parent if self.config else Path()
        named = select_tasks(self._locations.task_files, folder)
        if flag:
            selection = select_tasks(split_names(flag, f"data.{key}"))
        else:
            data = self._file.get("data")
            listed = data.get(key) if isinstance(data, Mapping) else None
            well_formed = isinstance(listed, list) and all(isinstance(t, str) for t in listed)
            # Anything else than a list of names is left to the checks of the specification.
            selection = select_tasks(listed if listed and well_formed else [], folder)
        selection.files = {**named.files, **selection.files}
        return selection

    def _strategies(self, in_file: StrategySpec) -> dict[str, dict[str, Any]]:
        """Strategy name -> checked options."""
        asked = [in_file.name]
        if self.strategies is not None:
            asked = [name.strip() for name in self.strategies.split(",") if name.strip()]
        if not asked:
            raise UserError("strategy.name names no strategy", setting="strategy.name")
        chosen = chosen_strategies(asked)
        self._by_name = chosen.by_name
        names = chosen.names
        given = {in_file.name: in_file.options} if in_file.name in names else {}
        options = assigned_options(self.strategy_options, names, given)
        return {name: checked_options(name, values) for name, values in options.items()}


def assigned_options(
    texts: Sequence[str], names: Sequence[str], in_file: Mapping[str, Mapping[str, Any]] = EMPTY
) -> dict[str, dict[str, Any]]:
    """The options of each strategy, from ``--set``; those of a file are overridden.

    Args:
        texts: Each ``[STRATEGY.]NAME=VALUE``; of one strategy alone, its name may be left out.
        names: The strategies.
        in_file: Strategy -> options.

    Raises:
        UserError: If one is malformed, or its strategy is none of these.
    """
    options = {name: dict(in_file.get(name, {})) for name in names}
    for owner, option, value in _assignments(texts, "--set", "several strategies run", names):
        if owner not in options:
            raise _not_selected(owner, option, names)
        options[owner][option] = value
    return options


def _checked(**tables: object) -> _BesideTheSpec:
    """Tables of a file, checked by themselves.

    Raises:
        UserError: For an unknown key or a value of a wrong type.
    """
    try:
        return _BesideTheSpec.model_validate(tables)
    except ValidationError as error:
        raise explain_validation(error, _BesideTheSpec) from error


def counted_seeds(first: int, count: int) -> range:
    """So many seeds, counting up.

    Raises:
        UserError: If there is none, there are too many, or one is too large.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise UserError(
            f"seeds={short_repr(count)} must lie between 1 and {MOST_SEEDS:,}", setting="seeds"
        )
    if first + count - 1 > LARGEST_INTEGER:
        raise UserError(f"seed={first}: no seed is larger than {LARGEST_INTEGER}", setting="seed")
    return range(first, first + count)


def spec_on_tasks(
    settings: Mapping[str, Any], selected: TaskSelection, scored: TaskSelection | None = None
) -> RunSpec:
    """The specification of a run on these tasks, without a strategy.

    Args:
        settings: Nested as the sections of :class:`RunSpec`; what is left out has its default.
        selected: The tasks; none leaves those of ``settings``, or the default ones.
        scored: Tasks that are scored and never trained; none leaves those of ``settings``. What
            the suites among them say of the training is not for this run.

    Raises:
        UserError: For an unknown setting, task or stream, or a value out of range.
    """
    merged = overlay_settings(selected.defaults, settings)
    data = merged.get("data", {})
    if selected.names and isinstance(data, Mapping):  # anything else is refused below
        merged["data"] = data = {**data, "tasks": selected.names}
    if scored is not None and scored.names and isinstance(data, Mapping):
        merged["data"] = {**data, "eval_tasks": scored.names}
    spec = complete_spec(merged)
    _experience_count(spec)
    _check_tasks(spec)
    return _with_checked_task_options(spec)


def files_of(*selections: TaskSelection) -> list[Path]:
    """The files that describe the tasks of selections."""
    return [
        path
        for selected in selections
        for name, path in selected.files.items()
        if name in selected.names
    ]


def split_names(text: str, setting: str = "data.tasks") -> list[str]:
    """The parts of a comma-separated list.

    Args:
        text: The list.
        setting: Which setting it is the value of.

    Raises:
        UserError: If there is none.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UserError(f"{setting} names no task", setting=setting)
    return names


def _not_selected(owner: str, option: str, names: Sequence[str]) -> UserError:
    """The error for an option of a strategy that does not run."""
    if not STRATEGIES.knows(owner):
        return unknown_name("strategy", owner, STRATEGIES.names())
    return UserError(
        f"{owner} is not among the strategies of this run ({', '.join(names)}): add {owner} to "
        f"strategy.name, or leave the option {owner}.{option} out",
        setting="strategy.name",
    )


def _assignments(
    texts: Sequence[str], flag: str, several: str, owners: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Owner, option and value of each ``[OWNER.]NAME=VALUE``; an only owner need not be named."""
    for text in texts:
        key, value = split_assignment(text)
        owner, _, option = key.rpartition(".")
        if not owner and len(owners) > 1:
            raise UserError(
                f"{flag} {text}: {several}, so say which one: {flag} {owners[0]}.{text}"
            )
        yield owner or owners[0], option, value


def _with_task_options(in_file: Any, assignments: Sequence[str], tasks: Sequence[str]) -> Any:
    """The options of tasks from a file, and over them those from flags, by task."""
    if not isinstance(in_file, Mapping) or not all(
        isinstance(values, Mapping) for values in in_file.values()
    ):
        return in_file  # the checks of the specification say what is wrong
    options = {name: dict(values) for name, values in in_file.items()}
    assigned = _assignments(assignments, "--task-option", "the run has several tasks", tasks)
    for owner, option, value in assigned:
        if owner not in tasks:
            raise unknown_name("task of this run", owner, tasks)
        options.setdefault(owner, {})[option] = value
    return options


def _with_checked_task_options(spec: RunSpec) -> RunSpec:
    """The specification with its tasks' options checked and converted to their types."""
    if not spec.data.options:
        return spec
    from epi_bench.plugins.options import given_options
    from epi_bench.task.task import TASKS

    options = {
        name: given_options(f"task {name!r}", TASKS.get(name), values, skip=1)
        for name, values in spec.data.options.items()
    }
    return spec.model_copy(update={"data": spec.data.model_copy(update={"options": options})})


def checked_options(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's options converted to their types; making it once checks their ranges.

    Raises:
        UserError: If the strategy or an option is unknown, or a value is of a wrong type or out of
            range.
    """
    from epi_bench.plugins.options import check_options

    checked = check_options(f"strategy {name!r}", STRATEGIES.get(name), values)
    create_strategy(name, checked)
    return checked


def idle_strategies(strategies: Mapping[str, Mapping[str, Any]], spec: RunSpec) -> list[str]:
    """Those that only act later than the stream of ``spec`` ends: full fine-tuning under a name.

    Args:
        strategies: Name -> options.
        spec: Any run of the stream.
    """
    experiences = _experience_count(spec)
    return [
        name
        for name, options in strategies.items()
        if create_strategy(name, options).acts_from >= experiences
    ]


def strategies_without_adapter(
    strategies: Mapping[str, Mapping[str, Any]], spec: RunSpec
) -> list[str]:
    """Those that cannot train the adapter that ``spec`` puts on the model; none without one.

    Args:
        strategies: Name -> options.
        spec: Any run.
    """
    if spec.adapter.kind == "none":
        return []
    return [
        name
        for name, options in strategies.items()
        if create_strategy(name, options).refuses_adapter
    ]


def existing_folder(folder: Path) -> Path:
    """A data folder that is there.

    Raises:
        UserError: If it is not.
    """
    try:
        found = folder.is_dir()
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise UserError(
            f"cannot read data folder {folder}: {error.strerror}", setting="data_dir"
        ) from error
    if not found:
        raise UserError(f"data folder {folder} does not exist: check data_dir", setting="data_dir")
    return folder


def _experience_count(spec: RunSpec) -> int:
    from epi_bench.spec.streams import build_stream

    return len(build_stream(spec.stream.kind, spec.data.tasks, dict(spec.stream.options)))


def _check_tasks(spec: RunSpec) -> None:
    """Refuse unknown tasks before anything heavy is imported."""
    from epi_bench.task.task import TASKS

    for name in spec.data.scored_tasks:
        if not TASKS.knows(name):
            raise unknown_name("task", name, [*TASKS.names(), *builtin_suites()])


def split_assignment(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``, without the spaces around them.

    Raises:
        UserError: If there is no name or no ``=``.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(f"{text!r} is not an assignment: write NAME=VALUE")
    return name.strip(), value.strip()


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = _without_none(value)
            if inner:
                kept[key] = inner
        elif value is not None:
            kept[key] = value
    return kept
