"""What a run is asked for beside its settings: folders, plugins, permissions, a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from epi_bench.api.selection import existing_folder
from epi_bench.errors import UserError, unknown_name
from epi_bench.evaluation.judge import JudgeSettings
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import DEFAULT_EVERY, checkpoint_settings
from epi_bench.runs.request import RunRequest
from epi_bench.runs.saving import KeepModel
from epi_bench.task.harness_task import use_task_folder


@dataclass(frozen=True)
class Where:
    """Where runs read and write, and what they may do; nothing in it changes a number.

    Args:
        out: Folder that gets ``runs/`` and ``results/``.
        data_dir: Folder with local data sets; ``None`` loads them from the hub.
        plugins: Python files that register strategies, tasks or streams.
        lm_eval_path: Folder with tasks of lm-evaluation-harness beside those that it brings.
        force: Whether finished runs are made again; otherwise their records are returned.
        retry_failed: Whether runs that failed before are made again; otherwise they fail as before.
        allow_code_execution: Whether tasks may run code that the model wrote, in a sandbox.
        judge: A judge model that grades open-ended answers, or ``None``.
        log_predictions: Whether the trained model's answers are written to ``predictions.jsonl``.
        save_model: Folder for the trained model, loadable by transformers; for a single run.
        keep_model: Which trained models each run keeps in its own folder, loadable by
            transformers: ``"none"``, ``"final"`` or ``"every-experience"``.
        publish: Whether finished records are copied to ``results/``, where they are ranked.
        checkpoint_every: When a run saves what it needs to go on after an interruption: a number of
            steps (``"200"``) or a time (``"30s"``, ``"5m"``); ``"0"`` never. The same call goes on.
        keep_checkpoints: Checkpoints kept beside the newest while a run goes on.

    Example:
        >>> import epi_bench
        >>> epi_bench.Where(out="study", data_dir="data").out
        'study'
    """

    out: str | Path = "."
    data_dir: str | Path | None = None
    plugins: Sequence[str | Path] = ()
    lm_eval_path: str | Path | None = None
    force: bool = False
    retry_failed: bool = False
    allow_code_execution: bool = False
    judge: JudgeSettings | None = None
    log_predictions: bool = False
    save_model: str | Path | None = None
    keep_model: Literal["none", "final", "every-experience"] = "none"
    publish: bool = True
    checkpoint_every: str = DEFAULT_EVERY
    keep_checkpoints: int = 0

    @property
    def plugin_files(self) -> tuple[Path, ...]:
        """The files in ``plugins``; a single one may be given without a list."""
        given = [self.plugins] if isinstance(self.plugins, str | Path) else self.plugins
        return tuple(map(Path, given))

    @property
    def harness_folder(self) -> Path | None:
        """``lm_eval_path`` as a path."""
        return Path(self.lm_eval_path).expanduser() if self.lm_eval_path else None

    def load(self) -> None:
        """Load the plugins, and let the harness's tasks in ``lm_eval_path`` be found.

        Raises:
            UserError: If a file or the folder does not exist, or a plugin fails.
        """
        load_plugin_files(self.plugin_files)
        if self.harness_folder is not None:
            use_task_folder(self.harness_folder)

    def request(
        self, task_files: Sequence[Path] = (), references: bool = False, runs: int = 1
    ) -> RunRequest:
        """The same for :mod:`epi_bench.runs`.

        Args:
            task_files: TOML files that describe tasks of the runs.
            references: Whether missing single-task references are trained.
            runs: How many runs are asked for.

        Raises:
            UserError: If the data folder does not exist, several runs would save a model to one
                folder, or ``keep_model`` is none of its values.
        """
        if self.save_model is not None and runs > 1:
            raise UserError(
                f"save_model keeps one model, but {runs} runs were asked for: "
                "name one strategy and one seed, or use keep_model"
            )
        if self.keep_model not in list(KeepModel):
            raise unknown_name("value of keep_model", self.keep_model, list(KeepModel))
        return RunRequest(
            workspace=Workspace(Path(self.out).expanduser()),
            data_dir=existing_folder(Path(self.data_dir).expanduser()) if self.data_dir else None,
            plugins=self.plugin_files,
            task_files=tuple(task_files),
            lm_eval_path=self.harness_folder,
            references=references,
            force=self.force,
            retry_failed=self.retry_failed,
            allow_code_execution=self.allow_code_execution,
            save_model=Path(self.save_model).expanduser() if self.save_model else None,
            keep_model=KeepModel(self.keep_model),
            published=self.publish,
            judge=self.judge,
            log_predictions=self.log_predictions,
            checkpoints=checkpoint_settings(self.checkpoint_every, self.keep_checkpoints),
        )
