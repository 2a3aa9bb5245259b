"""What determines a run: the specification, its defaults and its TOML form.

A :class:`RunSpec` holds everything that can change a run's numbers and nothing that cannot: where
files lie and how progress is shown is given beside it. Its canonical JSON, together with the
fingerprints of model, data and plugins, is the run's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from epi_bench.spec.streams import Order

MasterWeights = Literal["float32", "none"]
"""How bfloat16 weights are trained; see :mod:`epi_bench.model.precision`."""


MINI_TASKS = ("mini_math", "mini_code", "mini_logic", "mini_instruct", "mini_chat")
"""The tasks of suite ``mini``, which are trained where the user names none."""


class Section(BaseModel):
    """Base of all parts of a specification: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Section):
    """Which model is fine-tuned.

    Attributes:
        name: ``tiny`` (shipped with the package), a hub id, a local folder, or a ``.gguf`` file.
        revision: Hub branch, tag or commit.
        dtype: Type of the weights that are loaded, scored and saved; how bfloat16 ones are trained
            is said by ``training.master_weights``.
    """

    name: str = "tiny"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"


class StrategySpec(Section):
    """Which strategy, with which hyperparameters (those left out keep their defaults)."""

    name: str = "epi"
    options: dict[str, JsonValue] = Field(default_factory=dict)


class StreamSpec(Section):
    """Which stream, in which task order, with which options."""

    kind: str = "sequential"
    order: Order = "given"
    options: dict[str, JsonValue] = Field(default_factory=dict)


class DataSpec(Section):
    """Which data.

    Attributes:
        tasks: Task names, in the given order.
        train_examples: Training examples of each task; ``None`` takes all.
        test_examples: Test examples of each task; ``None`` takes all.
        max_length: Longest conversation in tokens.
        mask_history: Whether only the last assistant turn of a training conversation carries loss;
            otherwise every assistant turn does.
        options: For some of the tasks their options (those left out keep their defaults).
    """

    tasks: tuple[str, ...] = Field(default=MINI_TASKS, min_length=1)
    train_examples: int | None = Field(default=None, ge=1)
    test_examples: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=1024, ge=8)
    mask_history: bool = False
    options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_fit(self) -> Self:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a task is listed twice in {', '.join(self.tasks)}")
        for name in self.options:
            if name not in self.tasks:
                known = ", ".join(self.tasks)
                raise ValueError(
                    f"options of {name!r}, which is not among the run's tasks: {known}"
                )
        return self


class TrainingSpec(Section):
    """How each experience is trained.

    Attributes:
        steps: Optimizer steps for each task's share of the stream; exclusive with ``epochs``.
        epochs: Passes over each experience's own examples; exclusive with ``steps``. In a pass
            every example comes once; its last step is smaller where the sizes ask for it.
        batch_size: Most examples of one micro-batch, on each process.
        accumulation: An optimizer step takes so many times ``batch_size`` examples on each
            process. How they are cut into micro-batches changes no more than the last bits.
        optimizer: ``adamw``, ``sgd`` (momentum 0.9) or ``adafactor``.
        learning_rate: Peak of the schedule. AdamW moves a weight by about the learning rate at a
            step, Adafactor the weights of a tensor by at most that in the root mean square, SGD by
            the learning rate times the gradient.
        warmup_share: Share of an experience's steps with linearly rising learning rate.
        decay: Schedule after the warm-up, down to zero at the experience's end.
        weight_decay: Decoupled weight decay, for every optimizer: at each step a weight is
            multiplied by ``1 - learning rate * weight_decay``. Vectors are not decayed.
        max_gradient_norm: Gradients are clipped to this norm; 0 turns clipping off.
        max_skipped_steps: Steps in a row whose gradients are not finite, at which the run fails;
            fewer are skipped and counted.
        autocast: Mixed precision of the forward pass of the training; scores are those of the
            model as it is saved. A bfloat16 model with float32 master weights always has it.
        master_weights: How bfloat16 weights are trained: ``float32`` keeps them in float32 while
            training; ``none`` trains them in bfloat16 with stochastic rounding, in less memory.
        gradient_checkpointing: Trade time for memory.
        fresh_optimizer: Whether each experience begins with a new optimizer state.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, ge=0)
    max_skipped_steps: int = Field(default=10, ge=1)
    autocast: Literal["none", "bf16"] = "none"
    master_weights: MasterWeights = "float32"
    gradient_checkpointing: bool = False
    fresh_optimizer: bool = True

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def examples_a_step(self, processes: int = 1) -> int:
        """Examples of one optimizer step: of a micro-batch, times accumulation and processes."""
        return self.batch_size * self.accumulation * processes


class EvaluationSpec(Section):
    """How the model is scored.

    Attributes:
        batch_size: Examples scored at once; does not change the scores.
        probe_examples: Training examples of each task in its gradient-conflict probe; 0 turns the
            probes off.
        max_new_tokens: Longest answer to generate, in tokens, for tasks that allow a longer one;
            ``None`` leaves each task its own limit.
    """

    batch_size: int = Field(default=32, ge=1)
    probe_examples: int = Field(default=16, ge=0)
    max_new_tokens: int | None = Field(default=None, ge=1)


class RunSpec(Section):
    """Everything that determines a run's numbers.

    Attributes:
        seed: Of every random draw, and of the task order if it is random.
        threads: CPU threads of torch; ``None`` leaves torch's choice. Sums depend on it in their
            last bits.
    """

    model: ModelSpec = ModelSpec()
    strategy: StrategySpec = StrategySpec()
    stream: StreamSpec = StreamSpec()
    data: DataSpec = Field(default_factory=DataSpec)
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _master_weights_fit(self) -> Self:
        if self.training.master_weights == "none" and self.model.dtype == "float32":
            raise ValueError(
                "training.master_weights='none' is a way to train bfloat16 weights: "
                "add --dtype bfloat16 or leave it out"
            )
        return self


def short_hash(value: JsonValue | Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
