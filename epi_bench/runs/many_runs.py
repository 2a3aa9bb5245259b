"""Several strategies and seeds: their specifications, and processes that run them side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from epi_bench.errors import UserError
from epi_bench.plugins.registry import Registry
from epi_bench.runs.backend import Backend
from epi_bench.runs.known_runs import KnownRuns
from epi_bench.runs.launch import run_one
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.messages import pass_on
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.order import Order
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunOutcome, RunRequest, for_references
from epi_bench.runs.run_lock import RunBusyError
from epi_bench.spec.run_spec import RunSpec, StrategySpec
from epi_bench.spec.streams import STREAMS
from epi_bench.strategy.strategy import STRATEGIES
from epi_bench.task.task import TASKS


def expand(
    spec: RunSpec, strategies: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> list[RunSpec]:
    """The specifications of every strategy with every seed, seed by seed.

    Args:
        spec: What all have in common.
        strategies: Strategy name -> its options.
        seeds: One run each.
    """
    return [
        spec.model_copy(
            update={"strategy": StrategySpec(name=name, options=dict(options)), "seed": seed}
        )
        for seed in seeds
        for name, options in strategies.items()
    ]


def make_reference(spec: RunSpec, request: RunRequest, observer: RunObserver) -> None:
    """Train one single-task reference, unless it is there; a failure is a warning.

    Args:
        spec: As :func:`reference_spec` gives it.
        request: How runs are made.
        observer: Listens.
    """
    plain = for_references(replace(request, wait=True))
    try:
        outcome = KnownRuns(plain).find(spec) or run_one(spec, plain, observer)
    except UserError as error:  # the runs beside it may be possible all the same
        outcome = RunOutcome(spec, None, error=str(error), settings=error.settings)
    _warn_of_failed_reference(outcome, observer)


def run_in_process(
    specs: Sequence[RunSpec], request: RunRequest, observer: RunObserver
) -> Iterator[RunOutcome]:
    """Make one run after the other in this process; a failing one does not stop the others.

    What another process is making is waited for when nothing else is left to do.
    """
    attempted: set[str] = set()
    busy = []
    for spec in specs:
        try:
            if request.references:
                for task in spec.data.tasks:
                    reference = reference_spec(spec, task)
                    if reference.model_dump_json() not in attempted:
                        attempted.add(reference.model_dump_json())
                        make_reference(reference, request, observer)
            yield run_one(spec, request, observer)
        except RunBusyError:
            busy.append(spec)
        except UserError as error:
            yield RunOutcome(spec, None, error=str(error), settings=error.settings)
    for spec in busy:
        try:
            yield run_one(spec, _waiting(request), observer)
        except UserError as error:
            yield RunOutcome(spec, None, error=str(error), settings=error.settings)


def _waiting(request: RunRequest) -> RunRequest:
    """How runs are asked for that another process was making: what it has made is the answer."""
    return replace(request, wait=True, force=False)


def make_runs(
    specs: Sequence[RunSpec],
    request: RunRequest,
    backend: Backend | None,
    observer: RunObserver,
) -> Iterator[RunOutcome]:
    """Make all runs; they come as they end, first those that were made before.

    Args:
        specs: The runs.
        request: How they are made.
        backend: What makes them; ``None`` makes one after the other in this process.
        observer: Listens.

    Raises:
        UserError: If a process of its own could not find the strategy, stream or task of a run.
    """
    if backend is not None:
        check_other_process_finds(specs, request)
    known, missing = KnownRuns(request), list[RunSpec]()
    for spec in specs:
        outcome = known.find(spec)
        if outcome is None:
            missing.append(spec)
        else:
            yield outcome
    if backend is None:
        yield from run_in_process(missing, request, observer)
    elif missing:
        yield from run_on_backend(missing, request, backend, observer)


def local_backend(jobs: int, runs: int) -> Backend | None:
    """Processes on this machine for several runs at a time, or ``None`` if one will do.

    Args:
        jobs: Runs at a time.
        runs: How many there are.
    """
    return LocalProcesses(min(jobs, runs)) if jobs > 1 and runs > 1 else None


def run_on_backend(
    specs: Sequence[RunSpec],
    request: RunRequest,
    backend: Backend,
    observer: RunObserver | None = None,
) -> Iterator[RunOutcome]:
    """Make runs in other processes; their outcomes come in the order in which they end.

    References are made first, so that no two processes train the same one. The observer is only
    called from the thread that asks for the next outcome; ``for_run`` gives it one for each run.

    Raises:
        UserError: If a process of its own could not find the strategy, stream or task of a run.
    """
    listener = observer or RunObserver()
    check_other_process_finds(specs, request)
    with backend:
        if request.references:
            _make_references(specs, request, backend, listener)
        if request.judge:
            request = replace(request, judge=request.judge.shared_by(backend.runs_at_a_time))
        titled = [(f"{spec.label}, seed {spec.seed}", spec) for spec in specs]
        yield from _side_by_side(titled, replace(request, references=False), backend, listener)


def _make_references(
    specs: Sequence[RunSpec], request: RunRequest, backend: Backend, observer: RunObserver
) -> None:
    """Train the single-task references that are not there; one that fails is a warning."""
    plain = for_references(replace(request, references=False, save_model=None))
    known, missing = KnownRuns(plain), list[tuple[str, RunSpec]]()
    for title, reference in _references(specs):
        outcome = known.find(reference)
        if outcome is None:
            missing.append((title, reference))
        else:
            _warn_of_failed_reference(outcome, observer)
    for outcome in _side_by_side(missing, plain, backend, observer):
        _warn_of_failed_reference(outcome, observer)


def _references(specs: Sequence[RunSpec]) -> list[tuple[str, RunSpec]]:
    """Title and specification of each single-task reference, every one once."""
    found = {
        (reference := reference_spec(spec, task)).model_dump_json(): (task, reference)
        for spec in specs
        for task in spec.data.tasks
    }
    return [(f"reference of {task}", spec) for task, spec in found.values()]


def _side_by_side(
    titled: Sequence[tuple[str, RunSpec]],
    request: RunRequest,
    backend: Backend,
    observer: RunObserver,
) -> Iterator[RunOutcome]:
    """The outcomes of runs in other processes, as they end.

    What somebody else is making is waited for when nothing else is left to do.
    """
    listeners = [observer.for_run(title) for title, _ in titled]
    positions, busy = list(range(len(titled))), list[int]()
    while positions:
        orders = [Order(titled[position][1], request) for position in positions]
        with closing(backend.run(orders)) as messages:
            for number, message in messages:
                if not isinstance(message, RunOutcome):
                    pass_on(message, listeners[positions[number]])
                elif message.busy is not None:
                    busy.append(positions[number])
                    listeners[positions[number]].stage(f"made by {message.busy}")
                else:
                    listeners[positions[number]].closed()
                    yield message
        positions, busy = busy, []
        request = _waiting(request)


def check_other_process_finds(specs: Sequence[RunSpec], request: RunRequest) -> None:
    """Refuse what exists in this process alone: a class of a notebook's cell, say.

    Raises:
        UserError: If a run's strategy, stream or one of its tasks is such a thing.
    """
    named: dict[tuple[Registry[Any], str], None] = {}  # each once: entry points are looked through
    for spec in specs:
        named[STRATEGIES, spec.strategy.name] = None
        named[STREAMS, spec.stream.kind] = None
        named |= {(TASKS, task): None for task in spec.data.scored_tasks}
    for registry, name in named:
        if registry.is_found_by_name(name):
            continue
        if not request.plugins or registry.get(name).__module__ == "__main__":
            raise UserError(
                f"{registry.kind} {name!r} is defined in this process alone, and others make the "
                "runs: use jobs=1 and the local backend, or give a file with it as a plugin"
            )


def _warn_of_failed_reference(outcome: RunOutcome, observer: RunObserver) -> None:
    if not outcome.succeeded:
        observer.warning(
            f"the single-task reference of {outcome.spec.data.tasks[0]!r} failed, so the metrics "
            f"that need it stay undefined: {outcome.reason}"
        )
