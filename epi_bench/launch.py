"""Many runs: strategies times seeds, with the single-task references that their metrics need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.config import RunSpec, StrategySpec, spec_to_toml
from epi_bench.errors import UserError
from epi_bench.identity import run_id
from epi_bench.judge import JudgeSettings
from epi_bench.leaderboard import publish
from epi_bench.observer import RunObserver
from epi_bench.record import RunRecord
from epi_bench.record_file import load_record, save_record
from epi_bench.workspace import Workspace, require_writable

if TYPE_CHECKING:
    from epi_bench.judge.judge import Judge
    from epi_bench.preparation import PreparedRun


@dataclass(frozen=True)
class RunRequest:
    """How runs are made, beside what determines their numbers.

    Attributes:
        workspace: Where results go.
        data_dir: Folder with local data sets; ``None`` loads from the hub.
        plugins: Files that were given with ``--plugin``.
        task_files: TOML files that describe tasks of the runs.
        references: Whether missing single-task references are trained.
        force: Whether finished runs are made anew.
        allow_code_execution: Whether tasks may run code that the model wrote.
        save_model: Folder for the trained model (single runs only).
        published: Whether finished records are copied to the leaderboards.
        judge: The judge model that grades open-ended answers, or ``None``. It is here and not in
            the specification because it looks at a run and changes none of its numbers.
        log_predictions: Whether the final predictions are written beside the record; a finished
            run without them is made anew.
    """

    workspace: Workspace
    data_dir: Path | None = None
    plugins: tuple[Path, ...] = ()
    task_files: tuple[Path, ...] = ()
    references: bool = False
    force: bool = False
    allow_code_execution: bool = False
    save_model: Path | None = None
    published: bool = True
    judge: JudgeSettings | None = None
    log_predictions: bool = False

    @property
    def locations(self) -> dict[str, Any]:
        """The ``[locations]`` table of ``run.toml``."""
        table: dict[str, Any] = {}
        if self.data_dir:
            table["data_dir"] = str(self.data_dir.resolve())
        if self.plugins:
            table["plugins"] = [str(path.resolve()) for path in self.plugins]
        if self.task_files:
            table["task_files"] = [str(path.resolve()) for path in self.task_files]
        return table


@dataclass(frozen=True)
class RunOutcome:
    """What became of one run.

    Attributes:
        spec: What was asked for.
        record: Its record; ``None`` if it could not start.
        path: The record's file, if there is one.
        skipped: Whether it was finished before.
        error: Why it could not start.
    """

    spec: RunSpec
    record: RunRecord | None
    path: Path | None = None
    skipped: bool = False
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there is a finished record."""
        return self.record is not None and self.record.status == "finished"


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


def reference_spec(spec: RunSpec, task: str) -> RunSpec:
    """The single-task reference: full fine-tuning on one task alone with the same budget.

    It is trained once, with seed 0, and shared by all strategies, seeds and streams.
    """
    return spec.model_copy(
        update={
            "strategy": StrategySpec(name="full_sft"),
            "stream": spec.stream.model_copy(
                update={"kind": "sequential", "order": "given", "options": {}}
            ),
            "data": spec.data.model_copy(update={"tasks": (task,)}),
            "evaluation": spec.evaluation.model_copy(update={"probe_examples": 0}),
            "seed": 0,
        }
    )


def run_one(spec: RunSpec, request: RunRequest, observer: RunObserver) -> RunOutcome:
    """Make one run, unless it is finished already.

    Args:
        spec: The run.
        request: How it is made.
        observer: Listens.

    Raises:
        UserError: For anything the user can mend; nothing has been written then.
    """
    from epi_bench.preparation import prepare_run

    workspace = request.workspace
    workspace.check_writable()
    if request.save_model is not None:
        require_writable(request.save_model, "the model", "--save-model")
    observer.stage("reading data")
    prepared = prepare_run(spec, request.data_dir, request.allow_code_execution, observer)
    if request.save_model and request.save_model.resolve() == prepared.location.folder.resolve():
        raise UserError(
            f"--save-model {request.save_model} is the folder of the model itself, which would be "
            "lost: choose another"
        )
    path = workspace.record_path(prepared.run_id)
    references = known_references(prepared, workspace)
    finished = workspace.finished_record(prepared.run_id)
    complete = finished is not None and (
        not request.log_predictions or workspace.predictions_path(prepared.run_id).is_file()
    )
    skipped = complete and not request.force and request.save_model is None
    if skipped and finished is not None and request.judge is not None:
        # A record holds no answers, so a new judge needs the run made anew.
        skipped = _judged_by(finished, request.judge)
    try:
        if finished is not None and skipped:
            record = _with_references(finished, references, path)
        else:
            record = _experiment(prepared, request, observer, references)
        if request.published and record.status == "finished":
            publish(record, workspace.leaderboards)
    except OSError as error:
        raise UserError(
            f"cannot write results to {workspace.out}: {error.strerror or error}"
        ) from error
    return RunOutcome(spec, record, path, skipped=skipped)


def known_references(prepared: PreparedRun, workspace: Workspace) -> dict[str, float] | None:
    """Single-task scores that earlier runs left behind; ``None`` if one of them is missing."""
    scores: dict[str, float] = {}
    for task in prepared.tasks:
        fingerprints = {name: prepared.fingerprints[name] for name in ("model", f"task:{task}")}
        identity = run_id(
            reference_spec(prepared.spec, task), fingerprints, prepared.execution.identity()
        )
        record = workspace.finished_record(identity)
        if record is None or identity == prepared.run_id:
            return None
        scores[task] = final_scores(record)[task]
    return scores


def make_reference(spec: RunSpec, request: RunRequest, observer: RunObserver) -> None:
    """Train one single-task reference, unless it is there; a failure is a warning.

    Args:
        spec: As :func:`reference_spec` gives it.
        request: How runs are made.
        observer: Listens.
    """
    plain = _plain(replace(request, save_model=None))
    outcome = run_one(spec, plain, observer)
    if outcome.record is not None and not outcome.succeeded:
        observer.warning(
            f"the single-task reference of {spec.data.tasks[0]!r} failed, so the metrics that "
            f"need it stay undefined: {outcome.record.error}"
        )


def _plain(request: RunRequest) -> RunRequest:
    """How references are made: once, for their scores alone."""
    return replace(request, force=False, published=False, judge=None, log_predictions=False)


def _experiment(
    prepared: PreparedRun,
    request: RunRequest,
    observer: RunObserver,
    references: Mapping[str, float] | None,
) -> RunRecord:
    from epi_bench.experiment import Experiment

    judge = _judge(prepared, request.judge, observer)
    try:
        return Experiment(
            prepared,
            request.workspace,
            observer,
            reference_scores=references,
            save_model=request.save_model,
            log_predictions=request.log_predictions,
            locations=request.locations,
            judge=judge,
        ).run()
    finally:
        if judge is not None:
            judge.close()


def _judge(
    prepared: PreparedRun, settings: JudgeSettings | None, observer: RunObserver
) -> Judge | None:
    if settings is None:
        return None
    from epi_bench.judge.judge import open_judge

    observer.stage("asking the judge")
    return open_judge(
        settings, {name: (task.task, task.test) for name, task in prepared.tasks.items()}
    )


def _judged_by(record: RunRecord, settings: JudgeSettings) -> bool:
    """Whether a record holds the grades of this very judge, asked with the same prompts."""
    from epi_bench.judge.prompts import load_prompts

    found = record.judge
    return (
        found is not None
        and found.model == settings.model
        and found.prompt_fingerprint == load_prompts(settings.prompts).fingerprint
    )


def _with_references(
    record: RunRecord, references: Mapping[str, float] | None, path: Path
) -> RunRecord:
    """The record with the metrics that single-task references add, saved if they are new."""
    if references is None or record.reference_scores is not None:
        return record
    from epi_bench.recording import add_references

    completed = add_references(record, references)
    save_record(completed, path)
    return completed


def final_scores(record: RunRecord) -> dict[str, float]:
    """The last row of a record's score matrix by task; unmeasured cells are left out."""
    matrix = record.score_matrix
    if matrix is None:
        return {}
    last = matrix.values[-1]
    return {
        column.task: value
        for column, value in zip(matrix.columns, last, strict=True)
        if value is not None
    }


def run_in_process(
    specs: Sequence[RunSpec], request: RunRequest, observer: RunObserver
) -> Iterator[RunOutcome]:
    """Make one run after the other in this process; a failing one does not stop the others."""
    attempted: set[str] = set()
    for spec in specs:
        try:
            if request.references:
                for task in spec.data.tasks:
                    reference = reference_spec(spec, task)
                    if reference.model_dump_json() not in attempted:
                        attempted.add(reference.model_dump_json())
                        make_reference(reference, request, observer)
            yield run_one(spec, request, observer)
        except UserError as error:
            yield RunOutcome(spec, None, error=str(error))


def run_in_subprocesses(
    specs: Sequence[RunSpec], request: RunRequest, jobs: int
) -> Iterator[RunOutcome]:
    """Make up to ``jobs`` runs at a time, each in a process of its own, in the order they end.

    References are made first, so that no two processes train the same one.
    """
    if request.references:
        firsts = {
            reference_spec(spec, task).model_dump_json(): reference_spec(spec, task)
            for spec in specs
            for task in spec.data.tasks
        }
        plain = _plain(replace(request, references=False))
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda spec: _subprocess_run(spec, plain), firsts.values()))
    if request.judge:
        request = replace(request, judge=request.judge.shared_by(jobs))
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_subprocess_run, spec, request) for spec in specs]
        for future in as_completed(futures):
            yield future.result()


def _subprocess_run(spec: RunSpec, request: RunRequest) -> RunOutcome:
    with tempfile.TemporaryDirectory(prefix="epi-bench-") as folder:
        config = Path(folder) / "run.toml"
        report = Path(folder) / "report.txt"
        config.write_text(spec_to_toml(spec, {"locations": request.locations}), encoding="utf-8")
        command = [sys.executable, "-m", "epi_bench", "run", "--config", str(config)]
        command += ["--out", str(request.workspace.out), "--quiet", "--report", str(report)]
        command += [] if request.published else ["--no-publish"]
        command += ["--force"] if request.force else []
        command += ["--log-predictions"] if request.log_predictions else []
        command += ["--allow-code-execution"] if request.allow_code_execution else []
        command += request.judge.flags() if request.judge else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            return RunOutcome(spec, None, error=lines[-1].removeprefix("epi-bench: "))
        status, path = report.read_text(encoding="utf-8").strip().split(" ", 1)
    return RunOutcome(spec, load_record(Path(path)), Path(path), skipped=status == "skipped")
