"""What determines a run: the specification, its defaults and its TOML form.

A :class:`RunSpec` holds everything that can change a run's numbers and nothing that cannot: where
files lie and how progress is shown is given beside it. Its canonical JSON, together with the
fingerprints of model, data and plugins, is the run's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from epi_bench.spec.flag import Flag
from epi_bench.spec.streams import Order

MasterWeights = Literal["float32", "none"]
"""How bfloat16 weights are trained; see :mod:`epi_bench.model.precision`."""


LARGEST_INTEGER = 2**63 - 1
"""The smallest is its negative, less 1."""

MOST_THREADS = 1024
"""A process that starts many more is ended by its libraries or by the system."""

MINI_TASKS = ("mini_math", "mini_code", "mini_logic", "mini_instruct", "mini_chat")
"""The tasks of suite ``mini``, which are trained where the user names none."""


class Section(BaseModel):
    """Base of all parts of a specification: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_written(cls, value: object) -> object:
        """Refuse what no TOML file holds; torch takes no larger seed either."""
        if not _all_parts(value, _fits):
            raise ValueError(f"integers must lie between -2^63 and {LARGEST_INTEGER} (2^63 - 1)")
        if not _all_parts(value, _is_unicode):
            raise ValueError("no Unicode text: a character of it is half of a surrogate pair")
        return value


class ModelSpec(Section):
    """Which model is fine-tuned."""

    name: Annotated[
        str,
        Flag(
            "Model and data",
            "--model",
            elsewhere=("model-name-or-path", "model-name", "model-path", "model-id", "base-model",
                       "pretrained"),
        ),
    ] = Field(
        default="tiny",
        description="tiny (comes with the package), a local folder, a .gguf file or a hub id.",
    )  # fmt: skip
    revision: Annotated[
        str | None, Flag("Model and data", default_as="main", elsewhere=("model-revision",))
    ] = Field(default=None, description="Branch, tag or commit of the model on the hub.")
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Flag("Model and data", elsewhere=("torch-dtype", "precision", "model-dtype")),
    ] = Field(
        default="float32",
        description="Type of the weights that are loaded, scored and saved. How bfloat16 weights "
        "are trained is set by training.master_weights.",
    )


class StrategySpec(Section):
    """Which strategy, with which hyperparameters (those left out keep their defaults)."""

    name: Annotated[
        str,
        Flag(
            "Strategy",
            "--strategy",
            elsewhere=("method", "algorithm", "strategy-name"),
            made_from_field=False,
        ),
    ] = Field(
        default="epi", description="Name of the strategy: a built-in one, or one of a plugin."
    )
    options: Annotated[
        dict[str, JsonValue], Flag("Strategy", "--set", default_as="none", made_from_field=False)
    ] = Field(
        default_factory=dict,
        description="Hyperparameters of the strategy by name; those left out keep their defaults.",
    )


class AdapterSpec(Section):
    """Whether an adapter is trained in place of the model's own weights, whatever the strategy."""

    kind: Annotated[
        Literal["none", "lora"],
        Flag("Strategy", "--adapter", elsewhere=("use-peft", "peft", "finetuning-type")),
    ] = Field(
        default="none",
        description="Train a low-rank adapter in place of the model's own weights, by any strategy "
        "that brings none. Masks, penalties and averages then are of the adapter's weights; it is "
        "merged for scoring and saving.",
    )
    rank: Annotated[
        int,
        Flag("Strategy", "--adapter-rank", elsewhere=("lora-r", "lora-rank", "rank")),
    ] = Field(default=16, ge=1, description="Rank of the adapter's updates.")
    alpha: Annotated[
        float, Flag("Strategy", "--adapter-alpha", elsewhere=("lora-alpha", "alpha"))
    ] = Field(
        default=32.0,
        gt=0,
        description="Scale of the adapter's updates: they are multiplied by alpha / rank.",
    )
    target_modules: Annotated[
        str,
        Flag(
            "Strategy",
            "--adapter-target-modules",
            elsewhere=("lora-target-modules", "lora-target", "target-modules"),
        ),
    ] = Field(
        default="all-linear",
        description="Layers to adapt: their names or the ends of their paths, separated by commas; "
        "all-linear is every linear layer but the output head.",
    )


class StreamSpec(Section):
    """Which stream, in which task order, with which options."""

    kind: Annotated[str, Flag("Stream", "--stream", elsewhere=("scenario", "stream-kind"))] = Field(
        default="sequential",
        description="How the tasks are met, such as one after the other or mixed. "
        "`epi-bench streams list` shows all.",
    )
    order: Annotated[Order, Flag("Stream", elsewhere=("task-order",))] = Field(
        default="given", description="Task order; random draws one for each seed."
    )
    options: Annotated[
        dict[str, JsonValue],
        Flag("Stream", "--stream-option", default_as="none", made_from_field=False),
    ] = Field(default_factory=dict, description="Options of the stream by name.")


class DataSpec(Section):
    """Which data."""

    tasks: Annotated[
        tuple[str, ...],
        Flag(
            "Model and data",
            default_as="mini",
            elsewhere=("task", "dataset", "datasets", "dataset-name", "data", "train-file"),
            made_from_field=False,
        ),
    ] = Field(
        default=MINI_TASKS,
        min_length=1,
        description="Names of tasks or suites, or .toml files that describe them, in order.",
    )
    eval_tasks: Annotated[
        tuple[str, ...],
        Flag(
            "Model and data",
            default_as="none",
            elsewhere=("eval-task", "eval-dataset", "eval-datasets", "validation-tasks"),
            made_from_field=False,
        ),
    ] = Field(
        default=(),
        description="Tasks that are scored whenever the trained ones are, and never trained: what "
        "the model should keep. Named as data.tasks; lm_eval:NAME is a task of "
        "lm-evaluation-harness.",
    )
    general_text: Annotated[
        str | None,
        Flag("Model and data", default_as="the model's own", elsewhere=("eval-text", "text-file")),
    ] = Field(
        default=None,
        description="The text whose loss before and after training tells what the model has kept: "
        "a text file, a .jsonl file with a text in each row, or the test of a task that is not "
        "trained. By default it is the general_text.txt beside the model, or a short one that is "
        "shipped.",
    )
    train_examples: Annotated[
        int | None,
        Flag(
            "Model and data",
            default_as="all",
            elsewhere=("max-train-samples", "train-samples", "num-train-examples", "n-train"),
        ),
    ] = Field(default=None, ge=1, description="Training examples of each task.")
    test_examples: Annotated[
        int | None,
        Flag(
            "Model and data",
            default_as="all",
            elsewhere=("max-eval-samples", "eval-samples", "num-test-examples", "limit", "n-test"),
        ),
    ] = Field(default=None, ge=1, description="Test examples of each task.")
    max_length: Annotated[
        int,
        Flag(
            "Model and data",
            elsewhere=("max-seq-length", "max-seq-len", "max-sequence-length", "block-size",
                       "seq-length", "cutoff-len", "model-max-length", "context-length"),
        ),
    ] = Field(
        default=1024,
        ge=8,
        description="Longest conversation in tokens. A longer training conversation loses its end, "
        "a longer test prompt its beginning.",
    )  # fmt: skip
    mask_history: Annotated[bool, Flag("Model and data")] = Field(
        default=False,
        description="Train on the last assistant turn of a conversation only, not on every one.",
    )
    options: Annotated[
        dict[str, dict[str, JsonValue]],
        Flag("Model and data", "--task-option", default_as="none", made_from_field=False),
    ] = Field(
        default_factory=dict,
        description="Options of tasks, by task; those left out keep their defaults.",
    )

    @model_validator(mode="after")
    def _tasks_fit(self) -> Self:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a task is listed twice in {', '.join(self.tasks)}")
        if len(set(self.eval_tasks)) != len(self.eval_tasks):
            raise ValueError(f"an eval task is listed twice in {', '.join(self.eval_tasks)}")
        for name in self.eval_tasks:
            if name in self.tasks:
                raise ValueError(
                    f"task {name!r} is trained (data.tasks), so its scores do not tell what the "
                    "model keeps untrained: leave it out of data.eval_tasks"
                )
        for name in self.tasks:
            if ":" in name:
                raise ValueError(
                    f"task {name!r} is another library's, which scores it and trains nothing: name "
                    "it in data.eval_tasks"
                )
        if self.general_text in self.tasks:
            raise ValueError(
                f"task {self.general_text!r} is trained (data.tasks), so the loss on its test does "
                "not tell what the model keeps untrained: give another data.general_text"
            )
        for name in self.options:
            if name not in self.scored_tasks:
                known = ", ".join(self.scored_tasks)
                raise ValueError(
                    f"options of {name!r}, which is not among the run's tasks: {known}"
                )
        return self

    @property
    def scored_tasks(self) -> tuple[str, ...]:
        """The trained tasks in the order of the stream, then those that are scored only."""
        return (*self.tasks, *self.eval_tasks)


class TrainingSpec(Section):
    """How each experience is trained."""

    steps: Annotated[
        int | None,
        Flag(
            "Training", elsewhere=("max-steps", "num-steps", "train-steps", "iterations", "iters")
        ),
    ] = Field(
        default=None,
        ge=1,
        description="Optimizer steps for each task's share of the stream, instead of epochs.",
    )
    epochs: Annotated[
        float | None,
        Flag("Training", elsewhere=("num-train-epochs", "num-epochs", "n-epochs", "max-epochs")),
    ] = Field(
        default=None,
        gt=0,
        description="Passes over each experience's own examples, instead of steps. In a pass every "
        "example comes once; its last step is smaller where the sizes ask for it.",
    )
    batch_size: Annotated[
        int,
        Flag(
            "Training",
            elsewhere=("per-device-train-batch-size", "train-batch-size", "micro-batch-size",
                       "per-device-batch-size", "bs"),
        ),
    ] = Field(
        default=8,
        ge=1,
        description="Examples of one micro-batch, at most, on each process.",
    )  # fmt: skip
    accumulation: Annotated[
        int,
        Flag(
            "Training",
            elsewhere=("gradient-accumulation-steps", "gradient-accumulation", "grad-accum",
                       "accumulation-steps", "grad-acc-steps"),
        ),
    ] = Field(
        default=1,
        ge=1,
        description="Micro-batches of an optimizer step. How its examples are cut into "
        "micro-batches changes no more than the last bits.",
    )  # fmt: skip
    optimizer: Annotated[
        Literal["adamw", "sgd", "adafactor"],
        Flag("Training", elsewhere=("optim", "optimizer-type", "optimiser")),
    ] = Field(default="adamw", description="Optimizer; sgd has momentum 0.9.")
    learning_rate: Annotated[
        float, Flag("Training", elsewhere=("lr", "peak-lr", "max-lr", "base-lr"))
    ] = Field(
        default=2e-5,
        gt=0,
        description="Peak of the learning rate. AdamW moves a weight by about the learning rate at "
        "a step, Adafactor the weights of a tensor by at most that in the root mean square, SGD by "
        "the learning rate times the gradient.",
    )
    warmup_share: Annotated[
        float, Flag("Training", elsewhere=("warmup-ratio", "warmup-steps", "warmup", "lr-warmup"))
    ] = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of an experience's steps with linearly rising learning rate.",
    )
    decay: Annotated[
        Literal["linear", "cosine", "constant"],
        Flag(
            "Training",
            elsewhere=("lr-scheduler-type", "lr-scheduler", "scheduler", "lr-schedule", "lr-decay"),
        ),
    ] = Field(
        default="linear",
        description="Learning rate after the warm-up; linear and cosine end at zero. They reach "
        "it at the end of each experience.",
    )
    weight_decay: Annotated[float, Flag("Training", elsewhere=("wd", "l2"))] = Field(
        default=0.01,
        ge=0,
        description="Decoupled weight decay, for every optimizer. At each step a weight is "
        "multiplied by 1 - learning rate * weight decay. Vectors are not decayed.",
    )
    max_gradient_norm: Annotated[
        float,
        Flag(
            "Training",
            elsewhere=("max-grad-norm", "grad-clip", "gradient-clip-val", "clip-grad-norm",
                       "gradient-clipping", "clip-norm"),
        ),
    ] = Field(
        default=1.0, ge=0, description="Gradients are clipped to this norm; 0 turns clipping off."
    )  # fmt: skip
    max_skipped_steps: Annotated[int, Flag("Training")] = Field(
        default=10,
        ge=1,
        description="Steps in a row whose gradients are not finite, at which the run fails. Fewer "
        "are skipped and counted.",
    )
    autocast: Annotated[
        Literal["none", "bf16"],
        Flag("Training", elsewhere=("bf16", "fp16", "mixed-precision", "amp")),
    ] = Field(
        default="none",
        description="Mixed precision of the forward pass of the training. Scores are those of the "
        "model as it is saved. A bfloat16 model with float32 master weights always has it.",
    )
    master_weights: Annotated[MasterWeights, Flag("Training")] = Field(
        default="float32",
        description="How bfloat16 weights are trained: in float32, or none for bfloat16 with "
        "stochastic rounding, in less memory.",
    )
    gradient_checkpointing: Annotated[
        bool, Flag("Training", elsewhere=("grad-checkpointing", "activation-checkpointing"))
    ] = Field(
        default=False,
        description="Compute activations a second time instead of keeping them: slower, in less "
        "memory.",
    )
    fresh_optimizer: Annotated[bool, Flag("Training", elsewhere=("reset-optimizer",))] = Field(
        default=True,
        description="Whether each experience begins with a new optimizer state.",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either training.steps or training.epochs")
        return self

    def examples_a_step(self, processes: int = 1) -> int:
        """Examples of one optimizer step: of a micro-batch, times accumulation and processes."""
        return self.batch_size * self.accumulation * processes


class EvaluationSpec(Section):
    """How the model is scored."""

    batch_size: Annotated[
        int,
        Flag(
            "Evaluation",
            "--evaluation-batch-size",
            elsewhere=("per-device-eval-batch-size", "eval-batch-size", "test-batch-size"),
        ),
    ] = Field(default=32, ge=1, description="Examples scored at once; does not change the scores.")
    probe_examples: Annotated[int, Flag("Evaluation")] = Field(
        default=16,
        ge=0,
        description="Training examples of each task in its gradient-conflict probe; 0 turns the "
        "probes off.",
    )
    kl_examples: Annotated[int, Flag("Evaluation")] = Field(
        default=32,
        ge=0,
        description="Test examples of each trained task on which the divergence from the base "
        "model is measured after each experience that trains the task; 0 turns that off.",
    )
    wise_ft_curve: Annotated[bool, Flag("Evaluation")] = Field(
        default=False,
        description="Whether the models between the base model and the finished one are scored, "
        "too: (1 - alpha) base + alpha finished for alpha from 0 to 1 in steps of 0.1.",
    )
    max_new_tokens: Annotated[
        int | None,
        Flag(
            "Evaluation",
            default_as="each task's own limit",
            elsewhere=(
                "max-tokens",
                "max-gen-toks",
                "max-generation-length",
                "generation-max-length",
            ),
        ),
    ] = Field(
        default=None,
        ge=1,
        description="Longest answer to generate, in tokens, for tasks that allow a longer one.",
    )


class RunSpec(Section):
    """Everything that determines a run's numbers.

    Each field says what it is for; ``epi-bench settings`` lists all, and flags, ``run.toml`` and
    the settings of the Python API are these fields.
    """

    model: ModelSpec = ModelSpec()
    strategy: StrategySpec = StrategySpec()
    adapter: AdapterSpec = AdapterSpec()
    stream: StreamSpec = StreamSpec()
    data: DataSpec = Field(default_factory=DataSpec)
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: Annotated[int, Flag("Stream", elsewhere=("random-seed", "random-state", "data-seed"))] = (
        Field(
            default=0,
            ge=0,
            description="Seed of every random draw, and of the task order if it is random.",
        )
    )
    threads: Annotated[
        int | None,
        Flag(
            "Training",
            default_as="torch's choice",
            elsewhere=("num-threads", "cpu-threads", "n-threads"),
        ),
    ] = Field(
        default=None,
        ge=1,
        le=MOST_THREADS,
        description="CPU threads of torch. Sums depend on it in their last bits.",
    )

    @property
    def label(self) -> str:
        """The strategy, and the adapter that it trains if there is one.

        >>> RunSpec(strategy={"name": "ewc"}, adapter={"kind": "lora"}, training={"steps": 1}).label
        'ewc + lora'
        """
        adapted = "" if self.adapter.kind == "none" else f" + {self.adapter.kind}"
        return self.strategy.name + adapted

    @model_validator(mode="after")
    def _adapter_has_an_effect(self) -> Self:
        given = self.adapter.model_dump(exclude_defaults=True)
        if self.adapter.kind == "none" and given:
            name = next(iter(given))
            raise ValueError(
                f"adapter.{name} has no effect without an adapter: set adapter.kind to lora, or "
                f"leave adapter.{name} out"
            )
        return self

    @model_validator(mode="after")
    def _master_weights_fit(self) -> Self:
        if self.training.master_weights == "none" and self.model.dtype == "float32":
            raise ValueError(
                "training.master_weights='none' is a way to train bfloat16 weights: "
                "set model.dtype to bfloat16, or leave it out"
            )
        return self


def _all_parts(value: object, check: Callable[[object], bool]) -> bool:
    """Whether every part of a JSON value passes a check, the keys among them."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return all(_all_parts(part, check) for part in value)
    return check(value)


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER


def _is_unicode(value: object) -> bool:
    """An argument of a command whose bytes are no UTF-8 is text with halves of surrogate pairs."""
    return not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value)


def short_hash(value: JsonValue | Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
