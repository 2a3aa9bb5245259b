"""The parts of a record that say how a run came about: strategy, data, cost, machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from epi_bench.results.record.part import Number, Part


class StrategyRecord(Part):
    """The strategy that was run.

    Attributes:
        hyperparameters: All of them, the defaults filled in; without those that later versions
            added and that have the value implied before (``Strategy.later_options``).
        source: Whether it came with the package or from a plugin.
        sees_all_tasks: Whether it has the data of all tasks from the beginning, so that it is no
            continual learner.
    """

    name: str
    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict)
    source: Literal["built-in", "plugin"] = "built-in"
    sees_all_tasks: bool = False


class ExperienceRecord(Part):
    """What one experience trained on.

    Attributes:
        steps: Optimizer steps.
        examples: Training examples, without those that had nothing to learn from.
        truncated: Examples among them that were cut to the maximal length.
        unsupervised: Examples left out because nothing supervised was left of them.
        steps_made: Optimizer steps that were made, where the strategy ended it before ``steps``.
        held_out: Different examples among ``examples`` that the strategy held out for validation.
    """

    name: str
    tasks: tuple[str, ...]
    steps: int
    examples: int
    truncated: int = 0
    unsupervised: int = 0
    steps_made: int | None = None
    held_out: int = 0

    @property
    def trained_steps(self) -> int:
        """Optimizer steps that were made."""
        return self.steps if self.steps_made is None else self.steps_made


class TaskDataRecord(Part):
    """What became of a task's rows and of the training examples made of them.

    Attributes:
        train_examples: Training examples, without those that had nothing to learn from.
        test_examples: Test examples.
        truncated: Training examples that were cut to the maximal length.
        unsupervised: Training examples left out because nothing supervised was left of them.
        test_prompts_trained: Test examples whose prompt is among the training examples, and
        test_examples_trained: those of them whose answer is the same too; ``None`` in records made
            before they were counted.
        prompts_cut: Test examples whose prompt lost its beginning, because it was too long.
        answers_cut: For each row of the score matrix, the answers that had not ended after the
            most tokens they may have; empty for a task without generated answers.
        rows_read: For each split, the rows that its file or hub data set holds; empty for a
            generated task.
        skipped_rows: For each split that has any, the rows that made no example, by reason.
    """

    train_examples: int
    test_examples: int
    truncated: int = 0
    unsupervised: int = 0
    test_prompts_trained: int | None = None
    test_examples_trained: int | None = None
    prompts_cut: int = 0
    answers_cut: dict[str, int] = Field(default_factory=dict)
    rows_read: dict[str, int] = Field(default_factory=dict)
    skipped_rows: dict[str, dict[str, int]] = Field(default_factory=dict)


class Cost(Part):
    """What the run cost.

    Attributes:
        training_seconds: Wall-clock time of training, evaluations not included.
        evaluation_seconds: Wall-clock time of all evaluations.
        total_seconds: Wall-clock time of everything, loading included.
        tokens_trained: Tokens of all training batches, without padding.
        extra_tokens: Tokens that went through the model beside them because the strategy asked for
            it: second gradients, probes, validation, Fisher passes. Records made before they were
            counted have 0.
        tokens_per_second: While training.
        peak_memory_bytes: Largest memory of the process, or of the GPU.
        extra_state_bytes: What the strategy keeps beside model and optimizer, at its largest.
        trainable_parameters: Parameters that get a gradient, in the experience where most of them
            do.
        total_parameters: Of the model being trained.
    """

    training_seconds: float
    evaluation_seconds: float
    total_seconds: float
    tokens_trained: int
    extra_tokens: int = 0
    tokens_per_second: Number = None
    peak_memory_bytes: int | None = None
    extra_state_bytes: int = 0
    trainable_parameters: int
    total_parameters: int


class Fingerprints(Part):
    """Hashes of what the specification only names.

    Attributes:
        model: Of the model's files.
        tasks: For each task of its examples, its card, its scoring and the code of a plugin.
        chat_template: Of the template's text.
        plugins: Of the source of each plugin that took part, by ``strategy:NAME``, ``task:NAME``
            and ``stream:NAME``.
        texts: Of each text file that an option of the strategy names, by the option; and of
            ``general_text``, if it was given.
        plugin: Of the strategy's file, in records made before ``plugins`` was kept.
    """

    model: str
    tasks: dict[str, str]
    chat_template: str
    plugins: dict[str, str] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    plugin: str | None = None


class Environment(Part):
    """Where and with what the run was made.

    Attributes:
        packages: Installed versions by name.
        processor: As the system calls it.
        device: Such as ``"cpu"`` or the name of the GPU.
        processes: Training processes.
        threads: CPU threads of torch in each of them.
        git_sha: Commit of the checkout; ``None`` for an installation that is none.
        git_dirty: Whether its files were changed.
        deterministic: Whether torch was set to use deterministic algorithms.
        matmul_precision: Of float32 matrix products, as torch calls it; ``None`` in records made
            before runs set it.
        execution: What of the process counts in the run's identity; empty for one plain process on
            the CPU.
        started_at: ISO 8601 with time zone.
        resumed: How often the run was interrupted and went on from a checkpoint.
    """

    packages: dict[str, str]
    python: str
    platform: str
    processor: str
    device: str
    processes: int = 1
    threads: int
    git_sha: str | None = None
    git_dirty: bool | None = None
    deterministic: bool
    matmul_precision: str | None = None
    execution: dict[str, JsonValue] = Field(default_factory=dict)
    started_at: str
    resumed: int = 0
