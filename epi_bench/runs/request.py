"""What is asked of a run beside its specification, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from epi_bench.evaluation.judge import JudgeSettings
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.saving import KeepModel
from epi_bench.spec.run_spec import RunSpec


@dataclass(frozen=True)
class RunRequest:
    """How runs are made, beside what determines their numbers.

    Attributes:
        workspace: Where results go.
        data_dir: Folder with local data sets; ``None`` loads from the hub.
        plugins: Files that were given with ``--plugin``.
        task_files: TOML files that describe tasks of the runs.
        lm_eval_path: Folder with tasks of lm-evaluation-harness beside those that it brings.
        references: Whether missing single-task references are trained.
        force: Whether finished runs are made anew.
        retry_failed: Whether runs that failed before are made again.
        wait: Whether a run that another process is making is waited for; otherwise its outcome is
            that it is busy.
        allow_code_execution: Whether tasks may run code that the model wrote.
        save_model: Folder for the trained model (single runs only).
        keep_model: Which trained models each run keeps in its folder.
        published: Whether finished records are copied to the board, ``results/``.
        judge: The judge model that grades open-ended answers, or ``None``. It is here and not in
            the specification because it looks at a run and changes none of its numbers.
        log_predictions: Whether the final predictions are written beside the record; a finished
            run without them is made anew.
        checkpoints: When a run saves what it needs to go on after an interruption.
    """

    workspace: Workspace
    data_dir: Path | None = None
    plugins: tuple[Path, ...] = ()
    task_files: tuple[Path, ...] = ()
    lm_eval_path: Path | None = None
    references: bool = False
    force: bool = False
    retry_failed: bool = False
    wait: bool = False
    allow_code_execution: bool = False
    save_model: Path | None = None
    keep_model: KeepModel = KeepModel.NONE
    published: bool = True
    judge: JudgeSettings | None = None
    log_predictions: bool = False
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)

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
        if self.lm_eval_path:
            table["lm_eval_path"] = str(self.lm_eval_path.resolve())
        return table


@dataclass(frozen=True)
class RunOutcome:
    """What became of one run.

    Attributes:
        spec: What was asked for.
        record: Its record; ``None`` if it could not start.
        path: The record's file, if there is one.
        skipped: Whether it was finished, or failed, before.
        busy: Which process is making it, if another one is and was not waited for.
        error: Why it could not start.
        settings: Names of the settings and arguments that ``error`` says to change.
        unsaved: What was asked for beside the record and could not be written: a model, the
            predictions, the copy on the board. One line each.
    """

    spec: RunSpec
    record: RunRecord | None
    path: Path | None = None
    skipped: bool = False
    busy: str | None = None
    error: str | None = None
    settings: tuple[str, ...] = ()
    unsaved: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether there is a finished record."""
        return self.record is not None and self.record.status == "finished"

    @property
    def reason(self) -> str | None:
        """Why there is no finished record; ``None`` if there is one."""
        if self.busy is not None:
            return f"it is being made by {self.busy}"
        return self.error or (self.record.error if self.record else None)


def for_references(request: RunRequest) -> RunRequest:
    """How references are made: once, for their scores alone."""
    return replace(
        request,
        force=False,
        published=False,
        judge=None,
        log_predictions=False,
        save_model=None,
        keep_model=KeepModel.NONE,
    )
