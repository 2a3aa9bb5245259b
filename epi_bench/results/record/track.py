"""Tracks: which runs may be compared with each other.

A track is what must be equal for two runs to be ranked together: model, tasks and their data,
budget, stream and the way of scoring. What a run may choose freely is not part of it: strategy,
hyperparameters, optimizer and learning rate, seed and task order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from pydantic import Field, JsonValue, model_validator

from epi_bench.spec.run_spec import RunSpec, Section, short_hash
from epi_bench.task.example import AnyScoring
from epi_bench.task.task import changed_task_options

SCHEMA_VERSION = 1
"""Of the run record; records of different versions are never ranked together."""

TRAINING_PROTOCOL = 2
"""Rises whenever the same specification trains otherwise than before, for every strategy.

1 sorted examples by length before it cut them into batches, which put examples of one task
together. 2 decides at random what is in a step.
"""


class TaskFacts(Section):
    """What makes two runs' scores on a task comparable.

    Attributes:
        fingerprint: Hash of the examples and of the task's own scoring settings.
        version: Of the way of asking and scoring (``TaskCard.version``).
        options: The task's options that differ from their defaults.
    """

    fingerprint: str
    scoring: AnyScoring
    metric: str
    version: int = 1
    options: dict[str, JsonValue] = Field(default_factory=dict)


class TrackFacts(Section):
    """What must be equal for two runs to be comparable.

    Attributes:
        schema_version: Of the record.
        training_protocol: :data:`TRAINING_PROTOCOL` of the version that trained the run; 1 for
            records made before there was another.
        model: Last part of the model's name.
        model_revision: As asked for on the hub.
        model_fingerprint: Hash of the model's content.
        tasks: By name; their order in the stream does not count.
        eval_tasks: Those that are scored and never trained, by name.
        general_text: Hash of the text whose loss is measured, if it was given; ``None`` for the
            model's own or the shipped one.
        train_examples: Training examples of each task; ``None`` for all.
        test_examples: Test examples of each task; ``None`` for all.
        max_length: Longest conversation in tokens.
        mask_history: Whether only the last assistant turn carries loss.
        max_new_tokens: Longest answer, where that is less than a task's own limit; ``None`` for
            the tasks' limits.
        steps: Optimizer steps a task, or ``None``.
        epochs: Passes over the data, or ``None``.
        examples_per_step: Batch size times accumulation times processes.
        stream: Kind of stream.
        stream_options: All options of the stream, the defaults filled in.
        stream_code: Hash of the stream's source, if it comes from a plugin.
    """

    schema_version: int = SCHEMA_VERSION
    training_protocol: int = 1
    model: str
    model_revision: str | None = None
    model_fingerprint: str
    tasks: dict[str, TaskFacts] = Field(min_length=1)
    eval_tasks: dict[str, TaskFacts] = Field(default_factory=dict)
    general_text: str | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    max_length: int
    mask_history: bool = False
    max_new_tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None
    examples_per_step: int
    stream: str
    stream_options: dict[str, JsonValue] = Field(default_factory=dict)
    stream_code: str | None = None

    @property
    def scored_tasks(self) -> dict[str, TaskFacts]:
        """The trained tasks and those that are scored only, by name."""
        return {**self.tasks, **self.eval_tasks}


class Track(Section):
    """A set of runs that may be ranked together, by name; the name follows from the facts."""

    name: str
    facts: TrackFacts

    @model_validator(mode="after")
    def _name_fits(self) -> Self:
        expected = track_name(self.facts)
        if self.name != expected:
            raise ValueError(
                f"track {self.name!r} does not fit the facts beside it, which make {expected!r}"
            )
        return self


def track_facts(
    spec: RunSpec,
    model_fingerprint: str,
    task_fingerprints: Mapping[str, str],
    protocols: Mapping[str, tuple[AnyScoring, str, int]],
    stream_options: Mapping[str, JsonValue],
    processes: int = 1,
    general_text: str | None = None,
) -> TrackFacts:
    """What makes the track of a run.

    Args:
        spec: The run.
        model_fingerprint: Hash of the model's content.
        task_fingerprints: For each task, trained or not, the hash of its examples.
        protocols: For each of them its scoring mode, primary metric and version.
        stream_options: All options of the stream, the defaults filled in.
        processes: Training processes; each sees ``batch_size`` examples a micro-batch.
        general_text: Hash of the text whose loss is measured, if it was given.
    """
    from epi_bench.spec.streams import STREAMS

    training = spec.training
    options = changed_task_options(spec.data.options)
    facts = {
        task: TaskFacts(
            fingerprint=task_fingerprints[task],
            scoring=protocols[task][0],
            metric=protocols[task][1],
            version=protocols[task][2],
            options=options.get(task, {}),
        )
        for task in sorted(spec.data.scored_tasks)
    }
    return TrackFacts(
        training_protocol=TRAINING_PROTOCOL,
        model=re.split(r"[\\/]", spec.model.name.rstrip("\\/"))[-1],
        model_revision=spec.model.revision,
        model_fingerprint=model_fingerprint,
        tasks={name: of_task for name, of_task in facts.items() if name in spec.data.tasks},
        eval_tasks={
            name: of_task for name, of_task in facts.items() if name in spec.data.eval_tasks
        },
        general_text=general_text,
        train_examples=spec.data.train_examples,
        test_examples=spec.data.test_examples,
        max_length=spec.data.max_length,
        mask_history=spec.data.mask_history,
        max_new_tokens=spec.evaluation.max_new_tokens,
        steps=training.steps,
        epochs=training.epochs,
        examples_per_step=training.examples_a_step(processes),
        stream=spec.stream.kind,
        stream_options=dict(stream_options),
        stream_code=STREAMS.code_fingerprint(spec.stream.kind),
    )


def track_name(facts: TrackFacts) -> str:
    """A readable name that differs for different facts and is safe as a folder's name."""
    from epi_bench.task.files.suites import builtin_suites

    tasks = set(facts.tasks)
    suites = [name for name, suite in builtin_suites().items() if set(suite.tasks) == tasks]
    label = suites[0] if suites else "+".join(sorted(tasks))
    digest = short_hash(facts.model_dump(mode="json", exclude_defaults=True))[:8]
    parts = [_folder_part(part) for part in (label, facts.model, facts.stream)]
    return "-".join([*parts, digest])


def make_track(facts: TrackFacts) -> Track:
    """The track with these facts."""
    return Track(name=track_name(facts), facts=facts)


def _folder_part(text: str) -> str:
    """Text as part of a folder's name: letters, digits and ``_ + .``, at most 40 of them."""
    cleaned = re.sub(r"[^A-Za-z0-9_+.]+", "_", text)
    return cleaned[:40].strip(".") or "_"
