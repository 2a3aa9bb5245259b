"""One run from its preparation to its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_folder import CheckpointFolder
from epi_bench.runs.checkpoint_settings import OFF, CheckpointSettings
from epi_bench.runs.instruments import check_texts, general_text_of, make_evaluator
from epi_bench.runs.interruption import RunInterruptedError
from epi_bench.runs.measurements import LOSS_EVERY, JudgeIdentity, Measurements
from epi_bench.runs.observer import EventLog, Observers, RunObserver
from epi_bench.runs.prepared import PreparedRun
from epi_bench.runs.run_checkpoints import RunCheckpoints
from epi_bench.runs.saving import KeepModel, ModelKeeper
from epi_bench.runs.stopping import StopSignals
from epi_bench.spec.toml import spec_to_toml
from epi_bench.strategy.strategy import create_strategy

if TYPE_CHECKING:
    from accelerate import Accelerator

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.model.load import Backbone
    from epi_bench.runs.run_checkpoints import ResumePoint


class Experiment:
    """Trains and scores one prepared run and writes its files.

    :class:`epi_bench.runs.stream_training.StreamTraining` trains and scores; here is what stands
    around it: the model is loaded and checked, the run's folder begun, and whatever comes of the
    training becomes a record.

    Args:
        prepared: As :func:`epi_bench.runs.preparation.prepare_run` gives it.
        workspace: Where the files go.
        observer: Listens.
        reference_scores: Single-task score of each task, where known.
        save_model: Folder for the trained model, or ``None``.
        keep_model: Which trained models are kept in the run's folder.
        log_predictions: Whether to write the last row's predictions beside the record.
        locations: What ``run.toml`` must say beside the specification to repeat the run.
        judge: Grades the open-ended answers of the base row and of the last row, or ``None``.
        checkpoints: When the run saves what it needs to go on.
        force: Whether it begins anew even where there is a checkpoint.

    Attributes:
        measurements: What has been measured so far.
        keeper: Writes the models that are kept.

    Example:
        .. code-block:: python

            prepared = prepare_run(complete_spec({"training": {"steps": 50}}))
            record = Experiment(prepared, Workspace(Path("results")), RunObserver()).run()
    """

    def __init__(
        self,
        prepared: PreparedRun,
        workspace: Workspace,
        observer: RunObserver,
        reference_scores: Mapping[str, float] | None = None,
        save_model: Path | None = None,
        keep_model: KeepModel = KeepModel.NONE,
        log_predictions: bool = False,
        locations: Mapping[str, Any] | None = None,
        judge: Judge | None = None,
        checkpoints: CheckpointSettings | None = None,
        force: bool = False,
    ) -> None:
        self.prepared = prepared
        self.workspace = workspace
        self.observer = observer
        self.keeper = ModelKeeper(
            workspace.run_folder(prepared.run_id),
            keep_model,
            save_model,
            [experience.name for experience in prepared.experiences],
            prepared.strategy.adapter_is_whole,
        )
        self.log_predictions = log_predictions
        self._not_written: list[str] = []
        self.locations = dict(locations or {})
        self.judge = judge
        # each of several processes would have to save its part at the same step as the others
        together = prepared.execution.processes > 1
        self.settings = OFF if together else checkpoints or CheckpointSettings()
        self.force = force
        self.signals = StopSignals()
        self.reference_scores = reference_scores
        self.measurements = self._new_measurements()
        self._refused: set[Path] = set()

    @property
    def unsaved(self) -> tuple[str, ...]:
        """What was asked for beside the record and could not be written, a line each."""
        return (*self.keeper.problems, *self._not_written)

    def run(self) -> RunRecord:
        """Train, score, and write the record.

        A run that was interrupted goes on from its checkpoint. An error in training or in the
        strategy becomes a record with status ``failed``; it is returned, not raised. After Ctrl-C
        and SIGTERM there is no record but a checkpoint.

        Raises:
            UserError: If the model cannot be loaded, cannot read what this run gives it, or the
                strategy cannot work with it; nothing has been written then.
            RunInterruptedError: After Ctrl-C or SIGTERM; it says how to go on.
        """
        from epi_bench.runs.reproducibility import numerics_of_run
        from epi_bench.training.loop_state import StateMismatchError

        with self.signals.caught():
            while True:
                with numerics_of_run(self.prepared.spec):
                    accelerator = self._start_accelerator()
                    backbone, evaluator = self._load()
                    try:
                        return self._write_record(accelerator, backbone, evaluator)
                    except StateMismatchError:
                        self._begin_anew()

    def _new_measurements(self) -> Measurements:
        judge = self.judge
        return Measurements(
            reference_scores=self.reference_scores,
            judge=JudgeIdentity(judge.model, judge.prompts.fingerprint) if judge else None,
        )

    def _begin_anew(self) -> None:
        """Make what a checkpoint that did not fit has spoiled; it is not tried again."""
        spec = self.prepared.spec
        strategy = create_strategy(spec.strategy.name, spec.strategy.options)
        strategy.check_run(spec.training, [e.steps for e in self.prepared.experiences])
        self.prepared = replace(self.prepared, strategy=strategy)
        self.measurements = self._new_measurements()

    def _start_accelerator(self) -> Accelerator:
        from epi_bench.training.accelerator import create_accelerator

        spec, execution = self.prepared.spec, self.prepared.execution
        # several processes on a machine without a GPU train together only where accelerate is
        # asked to stay on the CPU
        cpu = execution.device == "cpu" and execution.processes > 1
        accelerator = create_accelerator(spec.training, cpu=cpu, dtype=spec.model.dtype)
        execution.check(accelerator.device.type, accelerator.num_processes)
        self.measurements.device = str(accelerator.device)
        self.measurements.processes = accelerator.num_processes
        return accelerator

    def _load(self) -> tuple[Backbone, Evaluator | Exception]:
        """The model and what scores it, checked against each other.

        An exception in place of the evaluator is one of a plugin's: it belongs into the record.
        """
        from epi_bench.model.load import load_backbone
        from epi_bench.training.adapter import make_adapter

        self.observer.stage("loading the model")
        backbone = load_backbone(self.prepared.spec.model, self.prepared.location)
        self.keeper.check_space(backbone.model)
        if (adapter := make_adapter(self.prepared.spec.adapter)) is not None:
            adapter.check(backbone.model)
        try:
            self.prepared.strategy.check_model(backbone.model)
            evaluator = make_evaluator(self.prepared)
            text = general_text_of(self.prepared, backbone)
            backbone.warnings += tuple(check_texts(self.prepared, backbone, evaluator, text))
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  (a plugin's code; reported in the record)
            return backbone, error
        return backbone, evaluator

    def _write_record(
        self, accelerator: Accelerator, backbone: Backbone, evaluator: Evaluator | Exception
    ) -> RunRecord:
        """Train and score; from here on the run has a folder, and ends in a record."""
        from epi_bench.training.loop_state import StateMismatchError

        checkpoints, point, observer = self._begin()
        try:
            if isinstance(evaluator, Exception):
                raise evaluator
            record = self._train(accelerator, backbone, evaluator, checkpoints, point)
        except KeyboardInterrupt as stop:
            checkpoints.on_interruption()
            observer.run_ended("interrupted", None)
            number = getattr(stop, "signal_number", SIGINT)
            raise RunInterruptedError(number, checkpoints.hint(forced=self.force)) from None
        except BaseException as error:
            if point is not None and isinstance(error, StateMismatchError):
                self._refused.add(point.path)
                self.observer.warning(f"checkpoint {point.path} is not used: {error}")
                raise
            # whatever a plugin raises becomes a record
            record = self._failed_record(error, backbone)
        self._put_in_place(record)
        checkpoints.end(finished=record.status == "finished")
        observer.run_ended(record.status, record.error)
        return record

    def _put_in_place(self, record: RunRecord) -> None:
        """Write the record over that of an earlier try, but no failed one over a finished one."""
        run_id = self.prepared.run_id
        path = self.workspace.record_path(run_id)
        if record.status == "failed" and self.workspace.finished_record(run_id) is not None:
            self.observer.warning(f"the finished record of an earlier try stays in {path}")
            return
        save_record(record, path)
        if not self.log_predictions:
            self.workspace.predictions_path(run_id).unlink(missing_ok=True)

    def _begin(self) -> tuple[RunCheckpoints, ResumePoint | None, RunObserver]:
        """Begin the run's folder, or go on in it.

        Returns:
            The run's checkpoints, the one to go on from, and who listens from now on: the event log
            too.
        """
        run_id = self.prepared.run_id
        self.workspace.begin(
            run_id, spec_to_toml(self.prepared.spec, {"locations": self.locations})
        )
        folder = CheckpointFolder(self.workspace.checkpoints_path(run_id), self.settings.kept)
        folder.sweep()
        self.keeper.sweep()
        if self.force and not self._refused:
            folder.remove()
        checkpoints = RunCheckpoints(
            folder, self.settings, self.prepared, self.measurements, self.observer
        )
        points = (point for point in checkpoints.points() if point.path not in self._refused)
        point = next(points, None) if self.prepared.execution.processes == 1 else None
        log = EventLog(
            self.workspace.events_path(run_id),
            LOSS_EVERY,
            goes_on=point is not None,
            warn=self.observer.warning,
        )
        checkpoints.observer = observer = Observers(log, self.observer)
        for message in checkpoints.refusals:
            observer.warning(message)
        if point is None and (checkpoints.refusals or self._refused):
            observer.note("no checkpoint can be used: the run starts from the beginning")
        return checkpoints, point, observer

    def _train(
        self,
        accelerator: Accelerator,
        backbone: Backbone,
        evaluator: Evaluator,
        checkpoints: RunCheckpoints,
        point: ResumePoint | None,
    ) -> RunRecord:
        from epi_bench.runs.recording import build_record
        from epi_bench.runs.stream_training import StreamTraining

        StreamTraining(
            self.prepared,
            self.measurements,
            checkpoints.observer,
            evaluator,
            checkpoints=checkpoints,
            signals=self.signals,
            judge=self.judge,
            keeper=self.keeper,
        ).run(backbone, accelerator, point)
        if self.log_predictions:
            self._save_predictions(checkpoints.observer)
        return build_record(self.prepared, self.measurements)

    def _save_predictions(self, observer: RunObserver) -> None:
        """Write the predictions; where that fails, the record is still worth having."""
        from epi_bench.evaluation.prediction_log import save_predictions

        examples = {name: task.test for name, task in self.prepared.scored_tasks.items()}
        path = self.workspace.predictions_path(self.prepared.run_id)
        try:
            save_predictions(examples, self.measurements.answers, path)
        except UserError as error:
            self._not_written.append(f"the predictions are missing: {error}")
            observer.warning(self._not_written[-1])

    def _failed_record(self, error: BaseException, backbone: Backbone) -> RunRecord:
        from epi_bench.runs.failure import explain_failure
        from epi_bench.runs.recording import build_failed_record

        reason = explain_failure(error, self.prepared.spec, backbone.model)
        return build_failed_record(self.prepared, self.measurements, reason)
