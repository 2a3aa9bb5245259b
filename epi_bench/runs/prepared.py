"""A run that has been resolved and checked: everything that training needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample, EncodingReport
from epi_bench.model.location import ModelLocation
from epi_bench.runs.reproducibility import Execution
from epi_bench.spec.run_spec import RunSpec
from epi_bench.spec.streams import ExperiencePlan
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import Strategy
from epi_bench.task.example import Example
from epi_bench.task.split_overlap import SplitOverlap, TrainedConversations
from epi_bench.task.task import Task


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """A task with the examples that a run scores it on.

    Attributes:
        task: Scores predictions.
        test: Test examples.
        fingerprint: SHA-256 of everything that the task's scores depend on.
    """

    task: Task
    test: Sequence[Example]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class PreparedTask(ScoredTask):
    """A task with the examples that a run trains on and those that it scores.

    Attributes:
        train: Encoded training examples, each with something to learn from.
        report: How many examples were encoded, cut and left out.
        trained: The conversations that are trained on.
    """

    train: Sequence[EncodedExample]
    report: EncodingReport
    trained: TrainedConversations

    @property
    def overlap(self) -> SplitOverlap:
        """How many of its test examples it trains on."""
        return self.trained.overlap(self.test)


@dataclass(frozen=True)
class PreparedRun:
    """Everything a run needs, resolved and checked; training can start.

    Attributes:
        run_id: Its identity.
        spec: What was asked for, the number of CPU threads written out.
        execution: How this process makes the run.
        strategy: Fresh, with its hyperparameters set.
        strategy_options: All hyperparameters as JSON values, the defaults filled in.
        stream_options: All options of the stream, the same way.
        location: The model's files.
        encoder: Of the model's tokenizer.
        tasks: Those that are trained, by name, in the order of the stream.
        eval_tasks: Those that are scored and never trained, by name.
        plans: The stream.
        experiences: The stream with its examples and steps, one for each plan.
        fingerprints: Content hashes of what the specification only names: ``model``, each
            ``task:NAME``, and where they come from plugins, ``strategy:NAME`` and ``stream:NAME``;
            ``text:OPTION`` for each of ``texts``. A task's own code is in the task's hash.
        plugins: Hash of the source of each plugin that takes part, named as ``fingerprints``.
        texts: Hash of each text file that an option of the strategy names, by the option; and of
            ``general_text``, if it was given.
        general_texts: The texts whose loss is measured, if they were given; ``None`` for the
            model's own.
        warnings: What the user should know.
    """

    run_id: str
    spec: RunSpec
    execution: Execution
    strategy: Strategy
    strategy_options: Mapping[str, JsonValue]
    stream_options: Mapping[str, JsonValue]
    location: ModelLocation
    encoder: ChatEncoder
    tasks: Mapping[str, PreparedTask]
    eval_tasks: Mapping[str, ScoredTask]
    plans: Sequence[ExperiencePlan]
    experiences: Sequence[Experience]
    fingerprints: Mapping[str, str]
    plugins: Mapping[str, str]
    texts: Mapping[str, str]
    general_texts: Sequence[str] | None
    warnings: Sequence[str]

    @property
    def scored_tasks(self) -> dict[str, ScoredTask]:
        """Every task that is scored, by name: the trained ones in their order, then the others."""
        return {**self.tasks, **self.eval_tasks}

    def trained_examples_of(self, task: ScoredTask) -> SplitOverlap:
        """How many of a task's test examples are trained on, by whichever task of the run."""
        return TrainedConversations.of_all([t.trained for t in self.tasks.values()]).overlap(
            task.test
        )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stream."""
        return sum(experience.steps for experience in self.experiences)
