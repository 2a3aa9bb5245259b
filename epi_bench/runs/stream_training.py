"""The order in which a run trains and scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from epi_bench.model.base_examples import BaseExamples
from epi_bench.model.location import general_text
from epi_bench.results.record.scores import Retention
from epi_bench.runs.instruments import (
    general_text_of,
    make_base_distributions,
    make_conflict_probe,
)
from epi_bench.runs.interpolation_curve import InterpolationCurve
from epi_bench.runs.known_tasks import KnownTasks
from epi_bench.runs.measurements import (
    CurvePoint,
    GradedRow,
    MeasuredDivergence,
    Measurements,
)
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.runs.prepared import PreparedRun
from epi_bench.runs.saving import ModelKeeper

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.evaluation.gradient_conflict import ConflictProbe
    from epi_bench.evaluation.judge.judge import Judge
    from epi_bench.evaluation.scores import TaskScores
    from epi_bench.model.load import Backbone
    from epi_bench.runs.instruments import GeneralText
    from epi_bench.runs.run_checkpoints import ResumePoint, RunCheckpoints
    from epi_bench.runs.stopping import StopSignals
    from epi_bench.spec.streams import ExperiencePlan
    from epi_bench.strategy.hooks import Experience, Step
    from epi_bench.training.loop import TrainingLoop


class StreamTraining:
    """Trains the stream of a prepared run, and scores the model before, in between and afterwards.

    The rows of the score matrix come about in this order::

        base model          scored, judged, general text read, its expectations remembered
        experience 1        trained, probed for gradient conflict, scored, compared with the base
        ...                 (a stream may score in the middle of an experience too)
        last experience     trained, probed; the strategy finishes the model; scored, judged,
                            general text read, moved weights counted, scored between the base
                            and itself if that is asked for, saved

    Args:
        prepared: The run.
        measurements: Takes what is measured.
        observer: Listens.
        evaluator: Scores the model on every task.
        checkpoints: Keeps what is needed to go on after an interruption, and knows what is done.
        signals: Says whether the run has been asked to stop.
        judge: Grades the open-ended answers of the base row and of the last row, or ``None``.
        keeper: Writes the models that the run is to keep, or ``None``.

    Whatever is done by the time of a checkpoint is passed over when the run goes on from it.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        measurements: Measurements,
        observer: RunObserver,
        evaluator: Evaluator,
        *,
        checkpoints: RunCheckpoints,
        signals: StopSignals,
        judge: Judge | None = None,
        keeper: ModelKeeper | None = None,
    ) -> None:
        self.prepared = prepared
        self.measurements = measurements
        self.observer = observer
        self.evaluator = evaluator
        self.checkpoints = checkpoints
        self.signals = signals
        self.judge = judge
        self.keeper = keeper or ModelKeeper(Path())
        self.base = make_base_distributions(prepared)

    def run(
        self, backbone: Backbone, accelerator: Accelerator, point: ResumePoint | None = None
    ) -> None:
        """Train and score, from the base model to the last row.

        Args:
            backbone: Model and tokenizer, as loaded.
            accelerator: What is trained on.
            point: Where an earlier process stopped.

        Raises:
            StateMismatchError: If the run cannot go on from there; model and strategy are of no
                use then.
        """
        self._announce(backbone)
        self.keeper.begin(backbone, self.observer.warning)
        if point is not None:
            self._take_up(point)
        measured, model = self.measurements, backbone.model.to(accelerator.device)
        text = general_text_of(self.prepared, backbone)
        measured.total_parameters = sum(p.numel() for p in model.parameters())
        self._score("base", model, "score base")
        self._judge_last_row("judge base")
        if measured.text_before is None:
            measured.text_before = text.negative_log_likelihood(model)
        if self.base is not None:
            self.base.remember(model)
        curve = InterpolationCurve(model) if self._asks_for_curve else None
        loop = self._start_loop(backbone, accelerator, point)
        finished = self._train_stream(loop)
        self._warn_of_losses(loop)
        self._judge_last_row("judge last")
        with loop.precision.as_saved(finished):
            after, _ = text.negative_log_likelihood(finished)
            self._measure_movement(loop, finished)
            if curve is not None:
                self._measure_curve(curve, finished, text)
            self._save(finished)
        before, tokens = measured.text_before
        measured.retention = Retention(nll_before=before, nll_after=after, tokens=tokens)
        measured.evaluation_seconds = self.evaluator.seconds

    def _take_up(self, point: ResumePoint) -> None:
        from epi_bench.training.loop_state import put_random_state

        self.checkpoints.take_up(point)
        self.evaluator.seconds = self.measurements.evaluation_seconds
        self.observer.note(point.announcement)
        self.observer.resumed(point.step, point.announcement)
        put_random_state(point.checkpoint.state["random"], point.checkpoint.tensors["random"])

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
            f"{spec.label} · {spec.stream.kind} · seed {spec.seed}",
            self.prepared.total_steps,
            list(self.prepared.scored_tasks),
        )

    def _start_loop(
        self, backbone: Backbone, accelerator: Accelerator, point: ResumePoint | None
    ) -> TrainingLoop:
        from epi_bench.evaluation.answers import ending_texts
        from epi_bench.training.adapter import make_adapter
        from epi_bench.training.loop import TrainingLoop
        from epi_bench.training.loop_state import put_random_state, random_state

        spec, checkpoints = self.prepared.spec, self.checkpoints
        loop = TrainingLoop(
            spec=spec.training,
            strategy=self.prepared.strategy,
            model=backbone.model,
            pad_token_id=int(backbone.tokenizer.pad_token_id),
            seed=spec.seed,
            accelerator=accelerator,
            total_steps=self.prepared.total_steps,
            experience_count=len(self.prepared.experiences),
            base_texts=BaseExamples(
                backbone.tokenizer,
                lambda: self.prepared.general_texts or [general_text(self.prepared.location)],
                spec.data.max_length,
            ),
            stream=self.prepared.experiences,
            tasks=KnownTasks(self.prepared, ending_texts(backbone.model)),
            adapter=make_adapter(spec.adapter),
        )
        self.measurements.training = loop.cost
        if checkpoints.first_random is not None:  # an adapter is drawn as it was the first time
            put_random_state(*checkpoints.first_random)
        elif checkpoints.is_on:
            checkpoints.first_random = random_state()
        loop.start()
        self.keeper.begin_adapter(loop.model)
        if checkpoints.is_on:
            loop.remember_start()
        if point is not None and (state := point.loop) is not None:
            loop.load_state_dict(state, self.prepared.experiences)
        checkpoints.goes_on_with(loop)
        return loop

    def _train_stream(self, loop: TrainingLoop) -> PreTrainedModel:
        """All experiences, with the scoring between them; returns the finished model."""
        probe = make_conflict_probe(self.prepared, loop.context)
        experiences = self.prepared.experiences
        for plan, experience in zip(self.prepared.plans, experiences, strict=True):
            self._train_experience(plan, experience, loop, probe)
            if experience is not experiences[-1]:
                self._score_unfinished(plan.name, plan, loop, f"score {experience.index}")
                self._save_unfinished(experience, loop)
        if self.keeper.keeps_adapter(loop.model):
            self.keeper.look_at_base(loop.model)
            with loop.precision.as_saved(loop.model), loop.as_finished() as adapted:
                self.keeper.keep_adapter(adapted)
        finished: Any = loop.finalize_model()
        with loop.precision.as_saved(finished):
            last = self.prepared.plans[-1]
            self._score(last.name, finished, "score last", last.tasks)
        return finished

    def _train_experience(
        self,
        plan: ExperiencePlan,
        experience: Experience,
        loop: TrainingLoop,
        probe: ConflictProbe | None,
    ) -> None:
        """One experience, with the scoring in its middle that the stream asks for."""
        done = f"train {experience.index}"
        if done in self.checkpoints.done:
            return
        pauses = [
            round(experience.steps * point / plan.evaluations)
            for point in range(1, plan.evaluations)
        ]

        def score_midway(number: int) -> None:
            where = f"{experience.index} step {number}"
            if f"probe {where}" not in self.checkpoints.done:
                self._probe(probe, loop, f"probe {where}")
                self.checkpoints.at_stage()
            self._score_unfinished(f"{plan.name} step {number}", plan, loop, f"score {where}")

        self.observer.stage(f"training {plan.name}")
        loop.train(
            experience,
            self._on_step,
            pauses,
            score_midway,
            undivided=self.signals.held_off,
            at_rest=self._at_rest,
            before_end=partial(self._before_end, experience),
        )
        self._diagnose(loop.steps_done)
        self._probe(probe, loop, done)
        with self.signals.held_off():
            self.checkpoints.at_stage()

    def _at_rest(self) -> None:
        self.checkpoints.after_step(stopping=self.signals.requested is not None)

    def _before_end(self, experience: Experience) -> None:
        from epi_bench.strategy.stiffness_shares import stiffness_shares

        shares = stiffness_shares(self.prepared.strategy.stiffness())
        with self.signals.held_off():
            self.measurements.note_stiffness(experience.index, shares)
            self.checkpoints.before_hook()

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
        is_last = step.ends_early or step.number_in_experience == experience.steps
        is_new_point = self.measurements.note_step(step.number, loss, ends_experience=is_last)
        if is_new_point and not is_last:  # else the strategy is asked once it has ended it
            self._diagnose(step.number)

    def _diagnose(self, step: int) -> None:
        """What the strategy has to report after a step."""
        values = self.prepared.strategy.diagnostics()
        if self.measurements.note_diagnostics(step, values):
            self.observer.diagnostics(step, values)

    def _probe(self, probe: ConflictProbe | None, loop: TrainingLoop, key: str) -> None:
        found = probe.measure(loop.model) if probe is not None else None
        with self.signals.held_off():
            if found is not None:
                self.measurements.conflicts.append(found)
            self.checkpoints.finish(key)

    def _score(
        self, row: str, model: PreTrainedModel, key: str, trained: Sequence[str] = ()
    ) -> None:
        """A row of the score matrix, task by task; what has been scored of it is not repeated.

        Args:
            row: Its name.
            model: What is scored.
            key: Under which it is done.
            trained: The tasks trained before it, on which the model is compared with the base.
        """
        if key in self.checkpoints.done:
            return
        measured = self.measurements

        def keep(task: str, scores: TaskScores) -> None:
            with self.signals.held_off():
                measured.scored[task] = scores
                measured.evaluation_seconds = self.evaluator.seconds
                self.checkpoints.after_measurement()

        self.observer.stage("scoring")
        scores = self.evaluator.score(model, measured.scored, keep)
        moved = self._divergence(row, model, trained)
        with self.signals.held_off():
            measured.note_row(row, scores)
            measured.divergences += moved
            self.checkpoints.finish(key)
        self.observer.scored(row, {name: result.mean for name, result in scores.items()})

    def _divergence(
        self, row: str, model: PreTrainedModel, tasks: Sequence[str]
    ) -> list[MeasuredDivergence]:
        """How far a model is from the base, if that is measured; its time is that of scoring."""
        if self.base is None or not tasks:
            return []
        started = perf_counter()
        found = self.base.divergence(model, tasks)
        self.evaluator.seconds += perf_counter() - started
        return [MeasuredDivergence(row, tuple(tasks), *found, self.base.top)] if found else []

    def _score_unfinished(
        self, row: str, plan: ExperiencePlan, loop: TrainingLoop, key: str
    ) -> None:
        """A row in the middle of the stream: of the model as it would be saved now."""
        if key in self.checkpoints.done:
            return
        with loop.precision.as_saved(loop.model), loop.as_finished() as model:
            as_saved: Any = model
            self._score(row, as_saved, key, plan.tasks)

    def _judge_last_row(self, key: str) -> None:
        """Have the row that was scored last graded; only the first and the last are, for cost."""
        if self.judge is None or key in self.checkpoints.done:
            return
        self.observer.stage("judging")
        answers = {
            name: [prediction.text for prediction in result.predictions]
            for name, result in self.measurements.answers.items()
        }
        grades = self.judge.grade(answers, self.observer.warning)
        with self.signals.held_off():
            self.measurements.judged.append(GradedRow(self.measurements.rows[-1].name, grades))
            self.checkpoints.finish(key)
            self.checkpoints.after_measurement()

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

    @property
    def _asks_for_curve(self) -> bool:
        return self.prepared.spec.evaluation.wise_ft_curve

    def _measure_curve(
        self, curve: InterpolationCurve, model: PreTrainedModel, text: GeneralText
    ) -> None:
        """Score the models between the base model and the finished one."""
        if not curve.fits(model):
            self.observer.warning(
                "there is no WiSE-FT curve: the finished model has other parameters than the base "
                "model, so nothing lies between the two"
            )
            return

        def keep(point: CurvePoint) -> None:
            with self.signals.held_off():
                self.measurements.curve.append(point)
                self.measurements.evaluation_seconds = self.evaluator.seconds
                self.checkpoints.after_measurement()

        curve.measure(
            model,
            self.evaluator,
            text,
            self.measurements,
            lambda alpha: self.observer.stage(f"scoring at alpha {alpha:g}"),
            keep,
        )

    def _save_unfinished(self, experience: Experience, loop: TrainingLoop) -> None:
        """Keep a model in the middle of the stream, if that was asked for."""
        key = f"save {experience.index}"
        if not self.keeper.keeps(experience.index) or key in self.checkpoints.done:
            return
        made = loop.cost.steps_made
        until_here = self.prepared.experiences[: experience.index + 1]
        steps = sum(made.get(str(e.index), e.steps) for e in until_here)
        if loop.steps_done > steps:  # an earlier process, which was not to keep it, went on
            self.keeper.miss(experience.index)
            return
        self.observer.stage("saving the model")
        self.keeper.look_at_base(loop.model)
        with loop.precision.as_saved(loop.model), loop.as_finished() as model:
            self.keeper.keep_unfinished(experience.index, model)
        with self.signals.held_off():
            self.checkpoints.finish(key)
            self.checkpoints.after_measurement()

    def _save(self, model: PreTrainedModel) -> None:
        if self.keeper.writes_final:
            self.observer.stage("saving the model")
            self.keeper.keep_final(model)
