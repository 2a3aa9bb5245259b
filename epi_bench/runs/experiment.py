"""One run from its specification to its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError, describe_error
from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.measurements import Measurements
from epi_bench.runs.observer import (
    EventLog,
    Observers,
    RunObserver,
    StepReport,
)
from epi_bench.runs.prepared import PreparedRun
from epi_bench.spec.toml import spec_to_toml
from epi_bench.strategy.hooks import Step

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.gradient_conflict import ConflictProbe
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.model.load import Backbone
    from epi_bench.training.loop import TrainingLoop


LOG_EVERY = 10
"""Optimizer steps between two entries of the event log and of the loss curve."""


class Experiment:
    """Trains and scores one prepared run and writes its files.

    Args:
        prepared: As :func:`epi_bench.runs.preparation.prepare_run` gives it.
        workspace: Where the files go.
        observer: Listens.
        reference_scores: Single-task score of each task, where known.
        save_model: Folder for the trained model, or ``None``.
        log_predictions: Whether to write the last row's predictions beside the record.
        locations: What ``run.toml`` must say beside the specification to repeat the run.
        judge: Grades the open-ended answers of the base row and of the last row, or ``None``.
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
        self.reference_scores = reference_scores
        self.save_model = save_model
        self.log_predictions = log_predictions
        self.locations = dict(locations or {})
        self.judge = judge
        self.measurements = Measurements()
        self.started_at = datetime.now(UTC)
        self.started = perf_counter()
        self._pending_losses: list[float] = []

    def run(self) -> RunRecord:
        """Train, score, and write the record.

        An error in training or in the strategy becomes a record with status ``failed``; it is
        returned, not raised. Ctrl-C leaves no record.

        Raises:
            UserError: If the model cannot be loaded, cannot read what this run gives it, or the
                strategy cannot work with it; nothing has been written then.
        """
        import torch

        from epi_bench.runs.reproducibility import fixed_numerics

        spec = self.prepared.spec
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices=devices), fixed_numerics(spec.threads):
            torch.manual_seed(spec.seed)  # dropout and adapter initialisation draw from it
            return self._run()

    def _run(self) -> RunRecord:
        from epi_bench.model.load import load_backbone
        from epi_bench.training.accelerator import create_accelerator

        spec = self.prepared.spec
        execution = self.prepared.execution
        # several processes on a machine without a GPU train together only where accelerate is told
        cpu = execution.device == "cpu" and execution.processes > 1
        accelerator = create_accelerator(spec.training, cpu=cpu, dtype=spec.model.dtype)
        execution.check(accelerator.device.type, accelerator.num_processes)
        self.observer.stage("loading the model")
        backbone = load_backbone(spec.model, self.prepared.location)
        broken: Exception | None = None
        try:
            self.prepared.strategy.check_model(backbone.model)
            evaluator = self._evaluator()
            backbone.warnings += tuple(self._check_fit(backbone, evaluator))
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  (a plugin's code; told in the record below)
            broken = error
        self._begin_files()
        try:
            if broken:
                raise broken
            record = self._train_and_record(backbone, evaluator, accelerator)
        except KeyboardInterrupt:
            self.observer.run_ended("interrupted", None)
            raise
        except BaseException as error:  # noqa: BLE001  (whatever a plugin raises becomes a record)
            record = self._failed_record(error)
        save_record(record, self.workspace.record_path(self.prepared.run_id))
        self.observer.run_ended(record.status, record.error)
        return record

    def _begin_files(self) -> None:
        """The run's folder, with the file that repeats it and an event log, without old results."""
        folder = self.workspace.run_folder(self.prepared.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        self.workspace.record_path(self.prepared.run_id).unlink(missing_ok=True)
        self.workspace.predictions_path(self.prepared.run_id).unlink(missing_ok=True)
        toml = spec_to_toml(self.prepared.spec, {"locations": self.locations})
        (folder / "run.toml").write_text(toml, encoding="utf-8")
        log = EventLog(self.workspace.events_path(self.prepared.run_id), LOG_EVERY)
        self.observer = Observers(log, self.observer)

    def _train_and_record(
        self, backbone: Backbone, evaluator: Evaluator, accelerator: Accelerator
    ) -> RunRecord:
        from epi_bench.runs.recording import build_record
        from epi_bench.training.loop import TrainingLoop

        spec = self.prepared.spec
        self.measurements.prompts_cut = evaluator.prompts_cut
        warnings = (*self.prepared.warnings, *backbone.warnings, *evaluator.warnings_of_prompts())
        for message in warnings:
            self.observer.warning(message)
        self.observer.run_started(
            self.prepared.run_id,
            f"{spec.strategy.name} · {spec.stream.kind} · seed {spec.seed}",
            self.prepared.total_steps,
            list(self.prepared.tasks),
        )
        backbone.model.to(accelerator.device)
        total_parameters = sum(p.numel() for p in backbone.model.parameters())
        self._score("base", backbone.model, evaluator)
        self._judge_last_row()
        before = self._general_loss(backbone, backbone.model)
        loop = TrainingLoop(
            spec=spec.training,
            strategy=self.prepared.strategy,
            model=backbone.model,
            pad_token_id=int(backbone.tokenizer.pad_token_id),
            seed=spec.seed,
            accelerator=accelerator,
            total_steps=self.prepared.total_steps,
            experience_count=len(self.prepared.experiences),
        )
        trained = sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
        final = self._train_stream(loop, evaluator)
        if loop.cost.skipped_steps:
            self.observer.warning(
                f"{loop.cost.skipped_steps} of {loop.steps_done} steps were skipped because their "
                "gradients were not finite"
            )
        for message in evaluator.warnings_of_answers(self.measurements.rows[-1][1]):
            self.observer.warning(message)
        self._judge_last_row()
        with loop.precision.as_saved(final):
            after = self._general_loss(backbone, final)
            self._measure_movement(loop, final)
            if self.save_model:
                self._save(final, backbone)
        self.measurements.retention = (before[0], after[0], before[1])
        if self.log_predictions:
            self._save_predictions()
        return build_record(
            self, loop.cost, evaluator.seconds, (trained, total_parameters), accelerator
        )

    def _train_stream(self, loop: TrainingLoop, evaluator: Evaluator) -> PreTrainedModel:
        """All experiences, with the scoring between them; returns the finished model."""
        strategy = self.prepared.strategy
        probe = self._conflict_probe(loop)
        for plan, experience in zip(self.prepared.plans, self.prepared.experiences, strict=True):
            pauses = [
                round(experience.steps * point / plan.evaluations)
                for point in range(1, plan.evaluations)
            ]

            def score_midway(number: int, name: str = plan.name) -> None:
                self._probe(probe, loop.model)
                self._score_unfinished(f"{name} step {number}", loop, evaluator)

            self.observer.stage(f"training {plan.name}")
            loop.train(experience, self._on_step, pauses, score_midway)
            self._diagnose(loop.steps_done)
            self._probe(probe, loop.model)
            if experience is not self.prepared.experiences[-1]:
                self._score_unfinished(plan.name, loop, evaluator)
        final: Any = strategy.finalize_model(loop.model)
        with loop.precision.as_saved(final):
            self._score(self.prepared.plans[-1].name, final, evaluator)
        return final

    def _on_step(self, step: Step, learning_rate: float) -> None:
        loss = float(step.loss)
        self._pending_losses.append(loss)
        experience = step.experience
        if step.skipped:
            self.observer.step_skipped(step.number, experience.name)
        self.observer.step_done(
            StepReport(
                number=step.number,
                total=self.prepared.total_steps,
                experience=experience.name,
                experience_index=experience.index,
                experience_count=len(self.prepared.experiences),
                loss=loss,
                learning_rate=learning_rate,
            )
        )
        last = step.number_in_experience == experience.steps
        if step.number % LOG_EVERY == 0 or last:
            mean = math.fsum(self._pending_losses) / len(self._pending_losses)
            self.measurements.losses.append((step.number, mean))
            self._pending_losses.clear()
            if not last:  # after an experience the strategy is asked once it has ended it
                self._diagnose(step.number)

    def _diagnose(self, step: int) -> None:
        """What the strategy has to report after a step."""
        values = self.prepared.strategy.diagnostics()
        if values:
            self.measurements.diagnostics.append((step, values))
            self.observer.diagnostics(step, values)

    def _score(self, row: str, model: Any, evaluator: Evaluator) -> None:
        self.observer.stage("scoring")
        scores = evaluator.score(model)
        rows = self.measurements.rows
        if rows:  # predictions are large, and only those of the last row are of use
            name, earlier = rows[-1]
            rows[-1] = (name, {task: s.without_predictions() for task, s in earlier.items()})
        rows.append((row, scores))
        self.observer.scored(row, {name: result.mean for name, result in scores.items()})

    def _score_unfinished(self, row: str, loop: TrainingLoop, evaluator: Evaluator) -> None:
        """A row in the middle of the stream: of the model as it would be saved now."""
        with (
            loop.precision.as_saved(loop.model),
            self.prepared.strategy.as_finished(loop.model) as model,
        ):
            self._score(row, model, evaluator)

    def _measure_movement(self, loop: TrainingLoop, model: PreTrainedModel) -> None:
        """How many weights have moved in the model that is saved; a warning if next to none."""
        from epi_bench.model.weight_movement import is_rounded, warn_of_little_movement

        share = loop.movement.share(model)
        held = self.prepared.strategy.diagnostics().get("achieved_ratio", 0.0)
        self.measurements.moved_weights = share
        if share is not None:
            for message in warn_of_little_movement(share, held, is_rounded(model)):
                self.observer.warning(message)

    def _judge_last_row(self) -> None:
        """Have the row that was scored last graded; only the first and the last are, for cost."""
        if self.judge is None:
            return
        self.observer.stage("judging")
        row, scores = self.measurements.rows[-1]
        answers = {
            name: [prediction.text for prediction in result.predictions]
            for name, result in scores.items()
        }
        self.measurements.judged.append((row, self.judge.grade(answers, self.observer.warning)))

    def _evaluator(self) -> Evaluator:
        from epi_bench.evaluation.evaluator import Evaluator, TaskEvaluator

        spec = self.prepared.spec.evaluation
        return Evaluator(
            {
                name: TaskEvaluator(
                    task.task,
                    task.test,
                    self.prepared.encoder,
                    spec.batch_size,
                    max_new_tokens=spec.max_new_tokens,
                )
                for name, task in self.prepared.tasks.items()
            }
        )

    def _check_fit(self, backbone: Backbone, evaluator: Evaluator) -> list[str]:
        """Find out before anything is written whether the model reads all that it will get."""
        from epi_bench.evaluation.running_text import text_token_ids
        from epi_bench.model.limits import check_fit
        from epi_bench.model.location import GENERAL_TEXT, general_text

        text = text_token_ids(backbone.tokenizer, general_text(backbone.location))
        if len(text) < 2:
            raise UserError(
                f"the {GENERAL_TEXT} of {self.prepared.spec.model.name} is a single token: "
                "write more text into it, or remove it for the default"
            )
        lengths = {"the general text": min(self._general_window, len(text))}
        with_answers = {}
        encoded: list[EncodedExample] = []
        for name, task in self.prepared.tasks.items():
            read = [*task.train, *evaluator.tasks[name].encoded]
            lengths[f"a text of task {name!r}"] = max(len(example) for example in read)
            with_answers[f"a text of task {name!r}"] = evaluator.tasks[name].longest_with_answer
            encoded += read
        texts = chain([text], (example.input_ids for example in encoded))
        return check_fit(backbone.model, backbone.tokenizer, lengths, with_answers, texts)

    @property
    def _general_window(self) -> int:
        return min(self.prepared.spec.data.max_length, 256)

    def _conflict_probe(self, loop: TrainingLoop) -> ConflictProbe | None:
        from epi_bench.evaluation.gradient_conflict import ConflictProbe

        count = self.prepared.spec.evaluation.probe_examples
        if count == 0 or len(self.prepared.tasks) < 2:
            return None
        generator = loop.context.generator("gradient-conflict probes")
        probes = {
            name: generator.sample(list(task.train), min(count, len(task.train)))
            for name, task in self.prepared.tasks.items()
        }
        return ConflictProbe(
            probes,
            loop.pad_token_id,
            self.prepared.spec.training.batch_size,
            loop.context.torch_generator("gradient-conflict coordinates"),
        )

    def _probe(self, probe: ConflictProbe | None, model: Any) -> None:
        if probe is not None:
            self.measurements.conflicts.append(probe.measure(model))

    def _general_loss(self, backbone: Backbone, model: Any) -> tuple[float, int]:
        from epi_bench.evaluation.running_text import text_negative_log_likelihood
        from epi_bench.model.location import general_text

        return text_negative_log_likelihood(
            model,
            backbone.tokenizer,
            general_text(backbone.location),
            self._general_window,
            self.prepared.spec.evaluation.batch_size,
        )

    def _save(self, model: PreTrainedModel, backbone: Backbone) -> None:
        if self.save_model is None:
            return
        from epi_bench.model.location import GENERAL_TEXT, general_text

        self.observer.stage("saving the model")
        model.config.use_cache = True
        model.save_pretrained(self.save_model)
        backbone.tokenizer.save_pretrained(self.save_model)
        text = general_text(backbone.location)  # else retention is measured on another text
        (self.save_model / GENERAL_TEXT).write_text(text, encoding="utf-8")

    def _save_predictions(self) -> None:
        from epi_bench.evaluation.prediction_log import save_predictions

        last = self.measurements.rows[-1][1]
        examples = {name: task.test for name, task in self.prepared.tasks.items()}
        save_predictions(examples, last, self.workspace.predictions_path(self.prepared.run_id))

    def _failed_record(self, error: BaseException) -> RunRecord:
        from epi_bench.runs.recording import build_failed_record

        return build_failed_record(self, describe_error(error))
