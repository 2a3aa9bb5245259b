"""One run: what has to be trained is trained, what is finished already is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.evaluation.judge import JudgeSettings
from epi_bench.files import set_aside
from epi_bench.results.leaderboard import publish
from epi_bench.results.record.consistency import DamagedRecordError
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace, require_writable
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.references import known_references, with_references
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.runs.run_lock import own_run
from epi_bench.runs.saving import kept_names
from epi_bench.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.runs.prepared import PreparedRun


def run_one(spec: RunSpec, request: RunRequest, observer: RunObserver) -> RunOutcome:
    """Make one run, unless it is finished already.

    Args:
        spec: The run.
        request: How it is made.
        observer: Listens.

    Raises:
        RunBusyError: If another process is making it and ``request.wait`` is not set.
        UserError: For anything the user can mend; nothing has been written then.
    """
    from epi_bench.runs.quiet import quiet_libraries

    observer.stage("starting")
    with quiet_libraries():
        return _run_one(spec, request, observer)


def _run_one(spec: RunSpec, request: RunRequest, observer: RunObserver) -> RunOutcome:
    from epi_bench.runs.preparation import prepare_run

    workspace = request.workspace
    workspace.check_writable()
    if request.save_model is not None:
        require_writable(request.save_model, "the model", "save_model")
    observer.stage("reading data")
    prepared = prepare_run(spec, request.data_dir, request.allow_code_execution, observer)
    if request.save_model and request.save_model.resolve() == prepared.location.folder.resolve():
        raise UserError(
            f"the folder {request.save_model} of save_model is that of the model itself, which "
            "would be lost: choose another",
            setting="save_model",
        )
    try:
        record, made, unsaved = _record(prepared, request, observer)
        if request.published and record.status == "finished":
            unsaved = (*unsaved, *_published(record, workspace, observer))
    except OSError as error:
        raise UserError(
            f"cannot write results to {workspace.out}: {error.strerror or error}"
        ) from error
    path = workspace.record_path(record.run_id)
    return RunOutcome(spec, record, path, skipped=not made, unsaved=tuple(unsaved))


def _record(
    prepared: PreparedRun, request: RunRequest, observer: RunObserver
) -> tuple[RunRecord, bool, Sequence[str]]:
    """The record of a run, made by one process at a time.

    Returns:
        The record, whether it was made now, and what was asked for beside it and could not be
        written.

    Raises:
        RunBusyError: If another process is making the run and is not to be waited for.
    """
    workspace = request.workspace
    known: RunRecord | None = None
    references = known_references(
        prepared.spec,
        prepared.run_id,
        prepared.fingerprints,
        prepared.execution,
        workspace,
        observer.warning,
    )
    with suppress(DamagedRecordError):  # dealt with once no other process can be at it
        known = known_record(prepared.run_id, request, references)
    if known is not None:
        return known, False, ()

    def tell(owner: str) -> None:
        observer.warning(
            f"{prepared.spec.label}, seed {prepared.spec.seed}, is being made by {owner}: "
            f"waiting for it (run {prepared.run_id})"
        )

    folder = workspace.run_folder(prepared.run_id)
    with own_run(folder, tell if request.wait else None) as waited:
        _set_damaged_aside(prepared.run_id, workspace, observer)
        # another process may have made it meanwhile; what it has just made is not made anew
        known = known_record(
            prepared.run_id, replace(request, force=request.force and not waited), references
        )
        if known is not None:
            return known, False, ()
        record, unsaved = _experiment(prepared, request, observer, references)
        return record, True, unsaved


def _set_damaged_aside(run_id: str, workspace: Workspace, observer: RunObserver) -> None:
    """Give a damaged record another name, so that the run can be made again.

    Raises:
        UserError: If it cannot be renamed or read, or a newer version wrote it.
    """
    try:
        workspace.known_record(run_id)
    except DamagedRecordError as error:
        aside = set_aside(workspace.record_path(run_id))
        if aside is None:
            raise
        observer.warning(
            f"{error}; the file is now {aside.name}, and the run is made again: delete it if "
            "nothing in it is of use"
        )


def known_record(
    run_id: str, request: RunRequest, references: Mapping[str, float] | None
) -> RunRecord | None:
    """The record that answers a request without anything being trained, if there is one.

    Args:
        run_id: The run.
        request: How it is to be made.
        references: Single-task scores; a finished record without any gets them.
    """
    if request.force:
        return None
    record = request.workspace.known_record(run_id)
    if record is None:
        return None
    if record.status != "finished":
        return None if request.retry_failed else record
    if not reusable(record, request) or _is_being_made_again(run_id, request.workspace):
        return None
    return with_references(record, references, request.workspace.record_path(run_id))


def _published(record: RunRecord, workspace: Workspace, observer: RunObserver) -> Sequence[str]:
    """Put a record on the board; why that could not be done, if it could not."""
    try:
        publish(record, workspace.board)
    except UserError as error:
        problem = f"the record is not on the board: {error}"
        observer.warning(problem)
        return (problem,)
    return ()


def _is_being_made_again(run_id: str, workspace: Workspace) -> bool:
    """Whether a run that has a finished record was interrupted while it was made once more.

    Then there is a checkpoint that is newer than the record; an older one was left behind.
    """
    from epi_bench.runs.checkpoint_folder import CheckpointFolder

    folder = CheckpointFolder(workspace.checkpoints_path(run_id))
    saved = folder.newest_time()
    if saved is None:
        return False
    if saved > workspace.record_path(run_id).stat().st_mtime:
        return True
    folder.remove()
    return False


def reusable(record: RunRecord, request: RunRequest) -> bool:
    """Whether a finished record answers a request, so that nothing has to be trained.

    It does unless the user wants the run made again, or something that the record's folder does
    not hold: the trained models, the answers, or another judge's grades.

    Args:
        record: A finished run with the identity of the one that is asked for.
        request: How that one is to be made.
    """
    if request.force or request.save_model is not None:
        return False
    models = request.workspace.models_folder(record.run_id)
    names = kept_names(request.keep_model, [part.name for part in record.experiences])
    if not all((models / name).is_dir() for name in names):
        return False
    answers = request.workspace.predictions_path(record.run_id)
    if request.log_predictions and not answers.is_file():
        return False
    return request.judge is None or _is_judged_by(record, request.judge)


def _is_judged_by(record: RunRecord, settings: JudgeSettings) -> bool:
    """Whether a record holds the grades of this very judge, asked with the same prompts."""
    from epi_bench.evaluation.judge.prompts import load_prompts

    found = record.judge
    return (
        found is not None
        and found.model == settings.model
        and found.prompt_fingerprint == load_prompts(settings.prompts).fingerprint
    )


def _experiment(
    prepared: PreparedRun,
    request: RunRequest,
    observer: RunObserver,
    references: Mapping[str, float] | None,
) -> tuple[RunRecord, Sequence[str]]:
    """The run's record, and what was asked for beside it and could not be written."""
    from epi_bench.runs.experiment import Experiment

    judge = _judge(prepared, request.judge, observer)
    try:
        experiment = Experiment(
            prepared,
            request.workspace,
            observer,
            reference_scores=references,
            save_model=request.save_model,
            keep_model=request.keep_model,
            log_predictions=request.log_predictions,
            locations=request.locations,
            judge=judge,
            checkpoints=request.checkpoints,
            force=request.force,
        )
        return experiment.run(), experiment.unsaved
    finally:
        if judge is not None:
            judge.close()


def _judge(
    prepared: PreparedRun, settings: JudgeSettings | None, observer: RunObserver
) -> Judge | None:
    if settings is None:
        return None
    from epi_bench.evaluation.judge.judge import open_judge

    observer.stage("asking the judge")
    return open_judge(
        settings, {name: (task.task, task.test) for name, task in prepared.scored_tasks.items()}
    )
