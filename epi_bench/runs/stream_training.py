"""The order in which a run trains and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.results.record.scores import Retention
from epi_bench.runs.instruments import general_text_of, make_conflict_probe
from epi_bench.runs.measurements import GradedRow, Measurements, Parameters
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.runs.prepared import PreparedRun
from epi_bench.runs.saving import ModelKeeper

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.gradient_conflict import ConflictProbe
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.model.load import Backbone
    from epi_bench.spec.streams import ExperiencePlan
    from epi_bench.strategy.hooks import Experience, Step
    from epi_bench.training.loop import TrainingLoop


class StreamTraining:
    """Trains the stream of a prepared run, and scores the model before, in between and afterwards.

    The rows of the score matrix come about in this order::

        base model          scored, judged, general text read
        experience 1        trained, probed for gradient conflict, scored
        ...                 (a stream may score in the middle of an experience too)
        last experience     trained, probed; the strategy finishes the model; scored, judged,
                            general text read, moved weights counted, saved

    Args:
        prepared: The run.
        measurements: Takes what is measured.
        observer: Listens.
        evaluator: Scores the model on every task.
        judge: Grades the open-ended answers of the base row and of the last row, or ``None``.
        keeper: Writes the models that the run is to keep, or ``None``.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        measurements: Measurements,
        observer: RunObserver,
        evaluator: Evaluator,
        *,
        judge: Judge | None = None,
        keeper: ModelKeeper | None = None,
    ) -> None:
        self.prepared = prepared
        self.measurements = measurements
        self.observer = observer
        self.evaluator = evaluator
        self.judge = judge
        self.keeper = keeper or ModelKeeper(Path())

    def run(self, backbone: Backbone, accelerator: Accelerator) -> None:
        """Train and score, from the base model to the last row.

        Args:
            backbone: Model and tokenizer, as loaded.
            accelerator: What is trained on.
        """
        self._announce(backbone)
        self.keeper.begin(backbone, self.observer.warning)
        measured, model = self.measurements, backbone.model.to(accelerator.device)
        text = general_text_of(self.prepared, backbone)
        total_parameters = sum(p.numel() for p in model.parameters())
        self._score("base", model)
        self._judge_last_row()
        before, tokens = text.negative_log_likelihood(model)
        loop = self._start_loop(backbone, accelerator)
        trained = sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
        measured.parameters = Parameters(trained, total_parameters)
        finished = self._train_stream(loop)
        self._warn_of_losses(loop)
        self._judge_last_row()
        with loop.precision.as_saved(finished):
            after, _ = text.negative_log_likelihood(finished)
            self._measure_movement(loop, finished)
            self._save(finished)
        measured.retention = Retention(nll_before=before, nll_after=after, tokens=tokens)
        measured.evaluation_seconds = self.evaluator.seconds

    def _announce(self, backbone: Backbone) -> None:
        spec = self.prepared.spec
        self.measurements.prompts_cut = self.evaluator.prompts_cut
        for warnings in (
            self.prepared.warnings, backbone.warnings, self.evaluator.warnings_of_prompts()
        ):  # fmt: skip
            for message in warnings:
                self.observer.warning(message)
        self.observer.run_started(
            self.prepared.run_id,
            f"{spec.strategy.name} · {spec.stream.kind} · seed {spec.seed}",
            self.prepared.total_steps,
            list(self.prepared.tasks),
        )

    def _start_loop(self, backbone: Backbone, accelerator: Accelerator) -> TrainingLoop:
        from epi_bench.training.loop import TrainingLoop

        spec = self.prepared.spec
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
        self.measurements.training = loop.cost
        return loop.start()

    def _train_stream(self, loop: TrainingLoop) -> PreTrainedModel:
        """All experiences, with the scoring between them; returns the finished model."""
        probe = make_conflict_probe(self.prepared, loop.context)
        experiences = self.prepared.experiences
        for plan, experience in zip(self.prepared.plans, experiences, strict=True):
            self._train_experience(plan, experience, loop, probe)
            if experience is not experiences[-1]:
                self._score_unfinished(plan.name, loop)
                self._save_unfinished(experience.index, loop)
        with loop.precision.as_saved(loop.model):
            self.keeper.keep_adapter(loop.model)
        finished: Any = self.prepared.strategy.finalize_model(loop.model)
        with loop.precision.as_saved(finished):
            self._score(self.prepared.plans[-1].name, finished)
        return finished

    def _train_experience(
        self,
        plan: ExperiencePlan,
        experience: Experience,
        loop: TrainingLoop,
        probe: ConflictProbe | None,
    ) -> None:
        """One experience, with the scoring in its middle that the stream asks for."""
        pauses = [
            round(experience.steps * point / plan.evaluations)
            for point in range(1, plan.evaluations)
        ]

        def score_midway(number: int) -> None:
            self._probe(probe, loop)
            self._score_unfinished(f"{plan.name} step {number}", loop)

        self.observer.stage(f"training {plan.name}")
        loop.train(experience, self._on_step, pauses, score_midway)
        self._diagnose(loop.steps_done)
        self._probe(probe, loop)

    def _on_step(self, step: Step, learning_rate: float) -> None:
        experience, loss = step.experience, float(step.loss)
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
        is_last = step.number_in_experience == experience.steps
        is_new_point = self.measurements.note_step(step.number, loss, ends_experience=is_last)
        if is_new_point and not is_last:  # else the strategy is asked once it has ended it
            self._diagnose(step.number)

    def _diagnose(self, step: int) -> None:
        """What the strategy has to report after a step."""
        values = self.prepared.strategy.diagnostics()
        if self.measurements.note_diagnostics(step, values):
            self.observer.diagnostics(step, values)

    def _probe(self, probe: ConflictProbe | None, loop: TrainingLoop) -> None:
        if probe is not None:
            self.measurements.conflicts.append(probe.measure(loop.model))

    def _score(self, row: str, model: PreTrainedModel) -> None:
        self.observer.stage("scoring")
        scores = self.evaluator.score(model)
        self.measurements.note_row(row, scores)
        self.observer.scored(row, {name: result.mean for name, result in scores.items()})

    def _score_unfinished(self, row: str, loop: TrainingLoop) -> None:
        """A row in the middle of the stream: of the model as it would be saved now."""
        strategy = self.prepared.strategy
        with loop.precision.as_saved(loop.model), strategy.as_finished(loop.model) as model:
            as_saved: Any = model
            self._score(row, as_saved)

    def _judge_last_row(self) -> None:
        """Have the row that was scored last graded; only the first and the last are, for cost."""
        if self.judge is None:
            return
        self.observer.stage("judging")
        answers = {
            name: [prediction.text for prediction in result.predictions]
            for name, result in self.measurements.answers.items()
        }
        grades = self.judge.grade(answers, self.observer.warning)
        self.measurements.judged.append(GradedRow(self.measurements.rows[-1].name, grades))

    def _warn_of_losses(self, loop: TrainingLoop) -> None:
        """Warn of steps that were skipped, and of answers of the last row that were cut."""
        skipped = loop.cost.skipped_steps
        if skipped:
            self.observer.warning(
                f"{skipped} of {loop.steps_done} steps were skipped because their "
                "gradients were not finite"
            )
        for message in self.evaluator.warnings_of_answers(self.measurements.rows[-1].scores):
            self.observer.warning(message)

    def _measure_movement(self, loop: TrainingLoop, model: PreTrainedModel) -> None:
        """How many weights have moved in the model that is saved; a warning if next to none."""
        from epi_bench.model.weight_movement import is_rounded, warn_of_little_movement

        share = loop.movement.share(model)
        held = self.prepared.strategy.diagnostics().get("achieved_ratio", 0.0)
        self.measurements.moved_weights = share
        if share is not None:
            for message in warn_of_little_movement(share, held, is_rounded(model)):
                self.observer.warning(message)

    def _save_unfinished(self, experience: int, loop: TrainingLoop) -> None:
        """Keep a model in the middle of the stream, if that was asked for."""
        if not self.keeper.keeps(experience):
            return
        self.observer.stage("saving the model")
        strategy = self.prepared.strategy
        with loop.precision.as_saved(loop.model), strategy.as_finished(loop.model) as model:
            self.keeper.keep_unfinished(experience, model)

    def _save(self, model: PreTrainedModel) -> None:
        if self.keeper.writes_final:
            self.observer.stage("saving the model")
            self.keeper.keep_final(model)
