"""Runs from Python: one of them, or strategies side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import JsonValue

from epi_bench.api.progress import progress_of
from epi_bench.api.results import Results
from epi_bench.api.selection import (
    checked_options,
    counted_seeds,
    files_of,
    idle_strategies,
    spec_on_tasks,
    strategies_without_adapter,
)
from epi_bench.api.strategy_names import chosen_strategies, nothing_left
from epi_bench.api.where import Where
from epi_bench.errors import UserError, short_repr
from epi_bench.results.record.run_record import RunRecord
from epi_bench.runs.backend_choice import choose_backend
from epi_bench.runs.many_runs import make_runs
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.ray_cluster import RayCluster
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.spec.run_spec import LARGEST_INTEGER, RunSpec, StrategySpec, StreamSpec
from epi_bench.task.files.selection import TaskSelection, select_tasks

Strategies = Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]] | str
"""Names, families and ``"all"``; or labels of one's own, each with a name and its options."""

Tasks = str | Path | Sequence[str | Path]
"""Names of tasks or suites, or ``.toml`` files that describe them."""

ARGUMENTS = {
    ("strategy",): "the argument strategy, with its options",
    ("seed",): "the argument seed or seeds",
    ("model", "name"): "the argument model",
    ("data", "tasks"): "the argument tasks",
    ("data", "eval_tasks"): "the argument eval_tasks",
    ("stream", "kind"): "the argument stream",
}
"""Settings that have an argument of their own."""


class RunFailedError(RuntimeError):
    """Training began and failed.

    Attributes:
        record: The failed run's record; ``record.error`` says why.
        path: The record's file.
    """

    def __init__(self, record: RunRecord, path: Path | None) -> None:
        super().__init__(
            f"{record.strategy.name}, seed {record.spec.seed}: {record.error} (record: {path})"
        )
        self.record = record
        self.path = path


def run(
    strategy: str = "epi",
    *,
    options: Mapping[str, JsonValue] | None = None,
    model: str | Path = "tiny",
    tasks: Tasks = "mini",
    eval_tasks: Tasks = (),
    stream: str | StreamSpec = "sequential",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    references: bool = False,
    where: Where | None = None,
    observer: RunObserver | None = None,
) -> RunRecord:
    """Train a strategy on a stream of tasks, and measure what it keeps and costs.

    A run that is finished already is not made again: its record is returned.

    Args:
        strategy: Name of a strategy, see ``epi-bench strategies list``.
        options: Its hyperparameters; those left out keep their defaults.
        model: ``"tiny"`` (shipped with the package), a folder, a ``.gguf`` file or a hub id.
        tasks: Names of tasks or suites, or ``.toml`` files that describe them.
        eval_tasks: Tasks that are scored whenever the others are, and never trained: what the model
            should keep. Their scores are in ``record.eval_scores``.
        stream: Name of a stream, or a stream with its task order and options.
        seed: Of every random draw.
        settings: Everything else, nested as in ``run.toml``: sections ``model``, ``stream``,
            ``data``, ``training`` and ``evaluation``, and ``threads``.
        references: Whether missing single-task references are trained first, for intransigence,
            interference and the normalised score.
        where: Folders, plugins and permissions; by default results go to the working folder.
        observer: Listens to the run; ``None`` shows a progress bar on a terminal or in a notebook.

    Raises:
        UserError: For anything the caller can fix; nothing has been written then.
        RunFailedError: If training failed; its ``record`` says why.

    Example:
        ```python
        record = epi_bench.run("epi", options={"ratio": 0.3}, settings={"training": {"steps": 50}})
        record.metrics["average_accuracy"]
        ```
    """
    where = where or Where()
    where.load()
    selected, scored = _selected(tasks), _named(eval_tasks)
    chosen = [StrategySpec(name=strategy, options=checked_options(strategy, options or {}))]
    common = _common_spec(model, selected, scored, stream, settings)
    [spec] = _expanded(common, chosen, [seed])
    request = where.request(files_of(selected, scored), references)
    return _single(spec, request, observer)


def run_spec(
    spec: RunSpec, *, where: Where | None = None, observer: RunObserver | None = None
) -> RunRecord:
    """Make the run of a complete specification, such as ``record.spec`` of an earlier one.

    Args:
        spec: The run.
        where: Folders, plugins and permissions.
        observer: Listens; ``None`` shows a progress bar on a terminal or in a notebook.

    Raises:
        UserError: For anything the caller can fix; nothing has been written then.
        RunFailedError: If training failed; its ``record`` says why.
    """
    where = where or Where()
    where.load()
    return _single(spec, where.request(), observer)


def compare(
    strategies: Strategies,
    *,
    seeds: int | Sequence[int] = 1,
    references: bool = False,
    jobs: int = 1,
    backend: Literal["local", "ray"] | RayCluster = "local",
    model: str | Path = "tiny",
    tasks: Tasks = "mini",
    eval_tasks: Tasks = (),
    stream: str | StreamSpec = "sequential",
    settings: Mapping[str, Any] | None = None,
    where: Where | None = None,
    observer: RunObserver | None = None,
) -> Results:
    """Train several strategies on the same stream of tasks, each with the same seeds.

    A run that fails does not stop the others: it is among :attr:`Results.failures`. Runs that are
    finished already are not made again.

    Args:
        strategies: Names, names of families such as ``"mask"``, and ``"all"``; or a mapping from
            labels of your own to a name and its options, such as
            ``{"epi 0.3": ("epi", {"ratio": 0.3})}``.
        seeds: How many, counting up from 0, or which ones.
        references: As in :func:`run`.
        jobs: Runs at a time; more than one gives each a process of its own.
        backend: What makes the runs: ``"local"``, this machine; ``"ray"``, a Ray that is started on
            this machine and ends with the call; or a :class:`epi_bench.RayCluster`.
        model: As in :func:`run`, like all further arguments.
        tasks: Names of tasks or suites, or ``.toml`` files.
        eval_tasks: Tasks that are scored and never trained.
        stream: Name of a stream, or a stream with its task order and options.
        settings: Everything else, nested as in ``run.toml``.
        where: Folders, plugins and permissions.
        observer: Listens to all runs; ``None`` shows progress on a terminal or in a notebook.

    Raises:
        UserError: For anything the caller can fix, if it stops every run.

    Example:
        ```python
        results = epi_bench.compare(["full_sft", "epi"], seeds=3)
        results  # the ranking, as a table
        results.difference("epi", "full_sft")
        ```
    """
    where = where or Where()
    if jobs < 1:
        raise UserError(f"jobs={jobs} must be at least 1")
    where.load()
    selected, scored = _selected(tasks), _named(eval_tasks)
    common = _common_spec(model, selected, scored, stream, settings)
    labels = _labelled(strategies, common)
    specs = _expanded(common, list(labels.values()), _seeds(seeds))
    request = where.request(files_of(selected, scored), references, len(specs))
    chosen = choose_backend(backend, jobs, len(specs))
    with progress_of(observer) as listener:
        outcomes = list(make_runs(specs, request, chosen, listener))
    if outcomes and all(outcome.record is None for outcome in outcomes):
        raise UserError(outcomes[0].reason or "no run could start")
    own = {} if not isinstance(strategies, Mapping) else labels
    return Results(
        records=tuple(o.record for o in outcomes if o.record and o.succeeded),
        failures=tuple(o for o in outcomes if not o.succeeded),
        labels={o.record.run_id: label for o in outcomes if o.record
                for label, spec in own.items() if spec == o.spec.strategy},
    )  # fmt: skip


def _single(spec: RunSpec, request: RunRequest, observer: RunObserver | None) -> RunRecord:
    outcome: RunOutcome
    with progress_of(observer) as listener:
        [outcome] = make_runs([spec], request, None, listener)
    if outcome.record is None:
        raise UserError(outcome.error or "the run could not start")
    if not outcome.succeeded:
        raise RunFailedError(outcome.record, outcome.path)
    return outcome.record


def _selected(tasks: Tasks) -> TaskSelection:
    selected = _named(tasks)
    if not selected.names:
        raise UserError("tasks names no task")
    return selected


def _named(tasks: Tasks) -> TaskSelection:
    entries = [tasks] if isinstance(tasks, str | Path) else list(tasks)
    return select_tasks([str(entry) for entry in entries])


def _common_spec(
    model: str | Path,
    selected: TaskSelection,
    scored: TaskSelection,
    stream: str | StreamSpec,
    settings: Mapping[str, Any] | None,
) -> RunSpec:
    """What all runs of a call have in common."""
    if not isinstance(model, str | PurePath):
        raise UserError(
            f"model is a {type(model).__name__}: a run is repeated from its files, so give a "
            "folder, a .gguf file or a hub id (save_pretrained makes a folder of a model in memory)"
        )
    given = _nested(settings or {})
    for path, argument in ARGUMENTS.items():
        section: Any = given
        for key in path:
            section = section.get(key) if isinstance(section, Mapping) else None
        if section is not None:
            raise UserError(f"settings cannot hold {'.'.join(path)}: it is {argument}")
    given["model"] = {**given.get("model", {}), "name": str(model)}
    in_stream = given.get("stream", {})
    if isinstance(stream, StreamSpec):
        if in_stream:
            raise UserError("settings cannot hold stream: it is the argument stream")
        given["stream"] = stream.model_dump()
    else:
        given["stream"] = {**in_stream, "kind": stream}
    return spec_on_tasks(given, selected, scored)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain dictionaries; sections must be mappings."""
    sections = {
        name
        for name, field in RunSpec.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    if not isinstance(settings, Mapping):
        raise UserError("settings must be a mapping, such as {'training': {'steps': 50}}")
    for name, value in settings.items():
        if name in sections and not isinstance(value, Mapping):
            raise UserError(
                f"settings: {name}={value!r} must be a mapping, such as {{'training': "
                "{'steps': 50}}"
            )
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in settings.items()}


def _labelled(strategies: Strategies, common: RunSpec) -> dict[str, StrategySpec]:
    """The strategies by label, their options checked."""
    if isinstance(strategies, Mapping):
        pairs = {label: _pair(label, value) for label, value in strategies.items()}
    else:
        asked = [strategies] if isinstance(strategies, str) else list(strategies)
        chosen = chosen_strategies(asked)
        brought = [name for name in chosen.names if name not in chosen.by_name]
        idle = idle_strategies({name: {} for name in brought}, common)
        refusing = strategies_without_adapter({name: {} for name in brought}, common)
        left_out = {*idle, *refusing}
        pairs = {name: (name, {}) for name in chosen.names if name not in left_out}
        if left_out and not pairs:
            raise nothing_left(asked, bool(refusing))
    if not pairs:
        raise UserError("strategies names no strategy")
    return {
        label: StrategySpec(name=name, options=checked_options(name, options))
        for label, (name, options) in pairs.items()
    }


def _pair(label: str, value: object) -> tuple[str, Mapping[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], Mapping):
        return str(value[0]), value[1]
    raise UserError(
        f"strategies: {label!r} must give a name and its options, such as ('epi', {{'ratio': 0.3}})"
    )


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    if isinstance(seeds, int):
        return list(counted_seeds(0, seeds))
    chosen = list(seeds)
    if not chosen:
        raise UserError(f"seeds={seeds!r} names no seed: at least 1")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"seeds={seeds!r} names a seed twice")
    return chosen


def _expanded(
    common: RunSpec, strategies: Sequence[StrategySpec], seeds: Sequence[int]
) -> list[RunSpec]:
    """Every strategy with every seed, seed by seed."""
    for seed in seeds:
        whole = isinstance(seed, int) and not isinstance(seed, bool)
        if not whole or not 0 <= seed <= LARGEST_INTEGER:
            raise UserError(
                f"seed={short_repr(seed)} must be a whole number from 0 to {LARGEST_INTEGER}"
            )
    return [
        common.model_copy(update={"strategy": strategy, "seed": seed})
        for seed in seeds
        for strategy in strategies
    ]
