"""One run from its preparation to its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.instruments import check_texts, general_text_of, make_evaluator
from epi_bench.runs.measurements import LOSS_EVERY, JudgeIdentity, Measurements
from epi_bench.runs.observer import EventLog, Observers, RunObserver
from epi_bench.runs.prepared import PreparedRun
from epi_bench.spec.toml import spec_to_toml

if TYPE_CHECKING:
    from accelerate import Accelerator

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.model.load import Backbone


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
        log_predictions: Whether to write the last row's predictions beside the record.
        locations: What ``run.toml`` must say beside the specification to repeat the run.
        judge: Grades the open-ended answers of the base row and of the last row, or ``None``.

    Attributes:
        measurements: What has been measured so far.

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
        log_predictions: bool = False,
        locations: Mapping[str, Any] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.prepared = prepared
        self.workspace = workspace
        self.observer = observer
        self.save_model = save_model
        self.log_predictions = log_predictions
        self.locations = dict(locations or {})
        self.judge = judge
        self.measurements = Measurements(
            reference_scores=reference_scores,
            judge=JudgeIdentity(judge.model, judge.prompts.fingerprint) if judge else None,
        )

    def run(self) -> RunRecord:
        """Train, score, and write the record.

        An error in training or in the strategy becomes a record with status ``failed``; it is
        returned, not raised. Ctrl-C leaves no record.

        Raises:
            UserError: If the model cannot be loaded, cannot read what this run gives it, or the
                strategy cannot work with it; nothing has been written then.
        """
        from epi_bench.runs.reproducibility import numerics_of_run

        with numerics_of_run(self.prepared.spec):
            accelerator = self._start_accelerator()
            backbone, evaluator = self._load()
            return self._write_record(accelerator, backbone, evaluator)

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

        self.observer.stage("loading the model")
        backbone = load_backbone(self.prepared.spec.model, self.prepared.location)
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
        run_id = self.prepared.run_id
        observer = self._begin()
        try:
            if isinstance(evaluator, Exception):
                raise evaluator
            record = self._train(accelerator, backbone, evaluator, observer)
        except KeyboardInterrupt:
            observer.run_ended("interrupted", None)
            raise
        except BaseException as error:  # noqa: BLE001  (whatever a plugin raises becomes a record)
            record = self._failed_record(error, backbone)
        save_record(record, self.workspace.record_path(run_id))
        observer.run_ended(record.status, record.error)
        return record

    def _begin(self) -> RunObserver:
        """Begin the run's folder; returns who listens from now on: the event log too."""
        run_id = self.prepared.run_id
        self.workspace.begin(
            run_id, spec_to_toml(self.prepared.spec, {"locations": self.locations})
        )
        return Observers(EventLog(self.workspace.events_path(run_id), LOSS_EVERY), self.observer)

    def _train(
        self,
        accelerator: Accelerator,
        backbone: Backbone,
        evaluator: Evaluator,
        observer: RunObserver,
    ) -> RunRecord:
        from epi_bench.evaluation.prediction_log import save_predictions
        from epi_bench.runs.recording import build_record
        from epi_bench.runs.stream_training import StreamTraining

        StreamTraining(
            self.prepared,
            self.measurements,
            observer,
            evaluator,
            judge=self.judge,
            save_model=self.save_model,
        ).run(backbone, accelerator)
        if self.log_predictions:
            examples = {name: task.test for name, task in self.prepared.tasks.items()}
            path = self.workspace.predictions_path(self.prepared.run_id)
            save_predictions(examples, self.measurements.answers, path)
        return build_record(self.prepared, self.measurements)

    def _failed_record(self, error: BaseException, backbone: Backbone) -> RunRecord:
        from epi_bench.runs.failure import explain_failure
        from epi_bench.runs.recording import build_failed_record

        reason = explain_failure(error, self.prepared.spec, backbone.model)
        return build_failed_record(self.prepared, self.measurements, reason)
