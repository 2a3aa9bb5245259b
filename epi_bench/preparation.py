"""Everything that can go wrong before a run starts, done before anything is written.

Names are resolved, data read and encoded, sizes and options checked, and the run's identity is
computed; what comes out is ready to train.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epi_bench.backbone import load_tokenizer
from epi_bench.chat import ChatEncoder, EncodedExample, EncodingReport
from epi_bench.config import RunSpec
from epi_bench.dataset_task import DatasetTask, same_answers
from epi_bench.encoding_cache import EncodingCache
from epi_bench.errors import UserError, foreign_code, one_line
from epi_bench.example_checks import check_examples
from epi_bench.identity import plugin_fingerprints, run_id, task_fingerprint
from epi_bench.model_checks import check_files
from epi_bench.model_files import ModelLocation, locate_model
from epi_bench.observer import RunObserver
from epi_bench.precision import warn_of_slow_bfloat16
from epi_bench.reproducibility import Execution, current_execution, overruled_settings
from epi_bench.split_overlap import SplitOverlap, TrainedConversations, trained_conversations
from epi_bench.strategy import Experience, Strategy, create_strategy
from epi_bench.stream import ExperiencePlan, build_stream, mix_examples, order_tasks
from epi_bench.task import TASKS, Example, Split, Task
from epi_bench.training import steps_of

SPLITS: tuple[Split, ...] = ("train", "test")

SHOWN_FROM = 2000
"""Training examples of a task from which on the progress of their encoding is told."""


@dataclass(frozen=True)
class PreparedTask:
    """A task with the examples that this run uses."""

    task: Task
    train: Sequence[EncodedExample]
    report: EncodingReport
    test: Sequence[Example]
    fingerprint: str
    trained: TrainedConversations

    @property
    def overlap(self) -> SplitOverlap:
        """How many of its test examples it trains on."""
        return self.trained.overlap(self.test)


@dataclass(frozen=True)
class PreparedRun:
    """A run that only needs to be trained.

    Attributes:
        run_id: Its identity.
        spec: What was asked for, the number of CPU threads written out.
        execution: How this process makes the run.
        strategy: Fresh, with its hyperparameters set.
        location: The model's files.
        encoder: Of the model's tokenizer.
        tasks: By name, in the order of the stream.
        plans: The stream.
        experiences: The stream with its examples and steps, one for each plan.
        fingerprints: Content hashes of what the specification only names: ``model``, each
            ``task:NAME``, and where they come from plugins, ``strategy:NAME`` and ``stream:NAME``.
            A task's own code is in the task's hash.
        plugins: Hash of the source of each plugin that takes part, named as ``fingerprints``.
        warnings: What the user should know.
    """

    run_id: str
    spec: RunSpec
    execution: Execution
    strategy: Strategy
    location: ModelLocation
    encoder: ChatEncoder
    tasks: Mapping[str, PreparedTask]
    plans: Sequence[ExperiencePlan]
    experiences: Sequence[Experience]
    fingerprints: Mapping[str, str]
    plugins: Mapping[str, str]
    warnings: Sequence[str]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stream."""
        return sum(experience.steps for experience in self.experiences)


def prepare_run(
    spec: RunSpec,
    data_dir: Path | None = None,
    allow_code_execution: bool = False,
    observer: RunObserver | None = None,
) -> PreparedRun:
    """Resolve, read, encode and check everything a run needs.

    Args:
        spec: The run.
        data_dir: Folder with local data sets; ``None`` loads from the hub.
        allow_code_execution: Whether tasks may run code that the model wrote.
        observer: Is told how the encoding of large data sets goes on.

    Raises:
        UserError: For anything the user can mend.
    """
    execution = current_execution()
    spec = execution.resolve(spec)
    strategy = create_strategy(spec.strategy.name, spec.strategy.options)
    order = order_tasks(spec.data.tasks, spec.stream.order, spec.seed)
    plans = build_stream(spec.stream.kind, order, dict(spec.stream.options))
    task_types = {name: TASKS.get(name) for name in order}
    plugins = plugin_fingerprints(spec)
    location = locate_model(spec.model)
    check_files(location)
    encoder = ChatEncoder(
        load_tokenizer(location), spec.data.max_length, mask_history=spec.data.mask_history
    )
    encoding = _Encoding(encoder, EncodingCache(), observer or RunObserver())
    tasks = {
        name: _prepare_task(
            _permitted(_make_task(name, task_type, data_dir), allow_code_execution),
            spec,
            encoding,
            plugins.get(f"task:{name}"),
        )
        for name, task_type in task_types.items()
    }
    fingerprints = {
        "model": location.fingerprint,
        **{f"task:{name}": tasks[name].fingerprint for name in sorted(tasks)},
        **{name: value for name, value in plugins.items() if not name.startswith("task:")},
    }
    experiences = _experiences(plans, tasks, spec, execution.processes)
    steps = [experience.steps for experience in experiences]
    return PreparedRun(
        run_id=run_id(spec, fingerprints, execution.identity()),
        spec=spec,
        execution=execution,
        strategy=strategy,
        location=location,
        encoder=encoder,
        tasks=tasks,
        plans=plans,
        experiences=experiences,
        fingerprints=fingerprints,
        plugins=plugins,
        warnings=[
            *_warnings(tasks, encoder),
            *encoding.cache.warnings,
            *overruled_settings(spec.training, spec.model.dtype),
            *_idle(strategy, len(experiences)),
            *_precision_warnings(spec, execution.device),
            *_check_run(strategy, spec, steps),
        ],
    )


@dataclass(frozen=True)
class _Encoding:
    """How the examples of a run are encoded."""

    encoder: ChatEncoder
    cache: EncodingCache
    observer: RunObserver

    def encode(
        self, task: str, examples: Sequence[Example]
    ) -> tuple[list[EncodedExample], EncodingReport]:
        total = len(examples)

        def show(done: int) -> None:
            self.observer.preparing(f"encoding {task}", done, total)

        return self.cache.encode(
            self.encoder,
            [example.messages for example in examples],
            show if total > SHOWN_FROM else None,
        )


def select_examples(
    task: Task, split: Split, count: int | None, examples: Sequence[Example]
) -> list[Example]:
    """``count`` examples of a split, the same for every run; all of them for ``None``.

    Raises:
        UserError: If the split has fewer.
    """
    if count is None:
        return list(examples)
    if count > len(examples):
        raise UserError(
            f"task {task.name!r} has {len(examples)} {split} examples, {count} were asked for: "
            f"lower --{split}-examples"
        )
    positions = random.Random(f"{split} examples of {task.name}").sample(
        range(len(examples)), count
    )
    return [examples[position] for position in sorted(positions)]


def _permitted(task: Task, allow_code_execution: bool) -> Task:
    if task.card.needs_code_execution and not allow_code_execution:
        raise UserError(
            f"task {task.name!r} is scored by running code that the model wrote: "
            "permit that with --allow-code-execution"
        )
    return task


def _make_task(name: str, task_type: type[Task], data_dir: Path | None) -> Task:
    with foreign_code(f"task {name!r} cannot be made"):
        return task_type(data_dir)


def _check_run(strategy: Strategy, spec: RunSpec, steps: Sequence[int]) -> Sequence[str]:
    with foreign_code(f"strategy {spec.strategy.name!r} fails to check the run"):
        return [one_line(str(told)) for told in strategy.check_run(spec.training, steps)]


def _prepare_task(task: Task, spec: RunSpec, encoding: _Encoding, code: str | None) -> PreparedTask:
    with foreign_code(f"task {task.name!r} fails to make its examples"):
        published = {split: task.examples(split) for split in SPLITS}
        for split, examples in published.items():
            check_examples(task, split, examples)
    train = select_examples(task, "train", spec.data.train_examples, published["train"])
    test = select_examples(task, "test", spec.data.test_examples, published["test"])
    for split, examples in (("train", train), ("test", test)):
        if not examples:
            raise UserError(f"task {task.name!r} has no {split} examples")
    encoded, report = encoding.encode(task.name, train)
    if not encoded:
        raise UserError(
            f"task {task.name!r}: none of the {len(train)} training examples keeps a supervised "
            f"token within {spec.data.max_length} tokens: raise --max-length"
        )
    return PreparedTask(
        task,
        encoded,
        report,
        test,
        task_fingerprint(task, [*train, *test], code),
        trained_conversations(train),
    )


def _experiences(
    plans: Sequence[ExperiencePlan],
    tasks: Mapping[str, PreparedTask],
    spec: RunSpec,
    processes: int,
) -> list[Experience]:
    experiences = []
    for index, plan in enumerate(plans):
        pools = [tasks[name].train for name in plan.tasks]
        generator = random.Random(f"mixing of experience {index} {spec.seed}")
        examples = mix_examples(pools, plan, generator)
        steps = steps_of(len(examples), plan.budget, spec.training, processes)
        if steps < plan.evaluations:
            raise UserError(
                f"experience {plan.name!r} has {steps} steps, too few for its "
                f"{plan.evaluations} evaluations: raise --steps"
            )
        experiences.append(Experience(index, plan.name, plan.tasks, examples, steps))
    return experiences


def _warnings(tasks: Mapping[str, PreparedTask], encoder: ChatEncoder) -> list[str]:
    warnings = []
    if encoder.uses_default_template:
        warnings.append(
            "the tokenizer has no chat template: the default (ChatML) is used and recorded"
        )
    for name, prepared in tasks.items():
        with foreign_code(f"task {name!r} fails to prepare its scoring"):
            warnings += [one_line(str(told)) for told in prepared.task.prepare_scoring()]
        warnings += _row_warnings(prepared.task)
        warnings += _overlaps(name, tasks)
        report = prepared.report
        if report.unsupervised:
            warnings.append(
                f"task {name!r}: {report.unsupervised} of "
                f"{report.encoded + report.unsupervised} training examples left out, because "
                f"nothing supervised remains within {encoder.max_length} tokens"
            )
        if report.truncated:
            warnings.append(
                f"task {name!r}: {report.truncated} of {report.encoded} training examples cut "
                f"to {encoder.max_length} tokens"
            )
    return warnings


def _idle(strategy: Strategy, experiences: int) -> list[str]:
    if strategy.acts_from < experiences:
        return []
    return [
        f"{strategy.name} acts from experience {strategy.acts_from + 1} on: on this stream of "
        f"{experiences} it trains as full_sft does"
    ]


def _precision_warnings(spec: RunSpec, device: str) -> list[str]:
    warnings = warn_of_slow_bfloat16(spec.training, spec.model.dtype) if device == "cpu" else []
    if spec.training.master_weights == "none":
        warnings.append(
            "the weights are trained in bfloat16: stochastic rounding adds noise to every update; "
            'training.master_weights = "float32" trains without it, in more memory'
        )
    return warnings


def _overlaps(name: str, tasks: Mapping[str, PreparedTask]) -> list[str]:
    """What of a task's test examples is trained on, by itself or by another task of the run."""
    lines = []
    for other, prepared in tasks.items():
        split = "the training split" if other == name else f"the training split of {other!r}"
        told = prepared.trained.overlap(tasks[name].test).warning(split)
        if told:
            lines.append(f"task {name!r}: {told}")
    return lines


def _row_warnings(task: Task) -> list[str]:
    if not isinstance(task, DatasetTask):
        return []
    lines = []
    for split in SPLITS:
        report = task.report(split)
        for reason, count in report.skipped.items():
            lines.append(
                f"task {task.name!r}: {count} of {report.rows} {split} rows left out: {reason}"
            )
    found = same_answers({split: task.examples(split) for split in SPLITS})
    return [*lines, *(f"task {task.name!r}: {warning}" for warning in found)]
