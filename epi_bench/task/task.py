"""The contract for data sets: a task turns rows into examples and scores predictions.

A task knows nothing about models or tokens. It hands out conversations; the chat module turns
them into tokens, and the evaluation module hands back what the model predicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import JsonValue

from epi_bench.errors import foreign_code
from epi_bench.files import shipped_file
from epi_bench.plugins.options import changed_options, check_options
from epi_bench.plugins.registry import Registry, abstract_methods
from epi_bench.task.example import AnyScoring, Example, Prediction
from epi_bench.task.rows.source import DataSource, Split


@dataclass(frozen=True, slots=True)
class TaskCard:
    """What a reader of a leaderboard must know about a task.

    Attributes:
        summary: One line.
        ability: What it stands for, such as ``mathematics`` or ``code``.
        scoring: How the model is asked.
        metric: Name of the primary metric among those that :meth:`Task.score` returns.
        higher_is_better: Direction of the primary metric as :meth:`Task.score` returns it.
        metric_range: Worst and best value of the primary metric; scaled to 0..100.
        chance: Score of a blind guess on the 0..100 scale, or ``None`` if it is practically 0.
        max_new_tokens: Longest answer to generate, in tokens.
        licence: Licence of the rows.
        source: Origin of the rows, or ``None`` for generated tasks.
        needs_code_execution: Whether scoring runs code that the model wrote.
        units: Units of the metrics that :meth:`Task.score` returns and that are not shares from 0
            to 1, by the metric's name; shares are shown on the 0..100 scale.
        version: Rises whenever the same answers are scored otherwise, or the same rows are asked
            otherwise, than before; scores of different versions are never ranked together.
    """

    summary: str
    ability: str
    scoring: AnyScoring
    metric: str
    licence: str
    max_new_tokens: int = 256
    higher_is_better: bool = True
    metric_range: tuple[float, float] = (0.0, 1.0)
    chance: float | None = None
    source: DataSource | None = None
    needs_code_execution: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    version: int = 1


class Task(ABC):
    """A data set with its scorer.

    Subclasses set :attr:`card` and implement :meth:`examples`; those that generate free text
    implement :meth:`score` too. Register with :func:`register_task`. The parameters of a
    constructor that follow ``data_dir`` are options that a user may set (``--task-option``).

    Args:
        data_dir: Folder with local files in the published layout; ``None`` loads from the hub.
    """

    name: ClassVar[str] = ""
    card: ClassVar[TaskCard]

    def __init__(self, data_dir: Path | None = None) -> None:
        self.data_dir = data_dir

    @property
    def scoring_settings(self) -> Mapping[str, JsonValue]:
        """What beside its name and examples determines the task's scores; part of a run's identity.

        Empty where the name stands for it, as for the built-in tasks.
        """
        return {}

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """All examples of a split, in a fixed order.

        Raises:
            UserError: If the rows are missing or broken; file and line are named.
        """

    def prepare_scoring(self) -> Sequence[str]:
        """Called once before a run, before anything is written, for what scoring needs.

        Returns:
            What the user should know, one line each.

        Raises:
            UserError: If this task cannot be scored on this system.
        """
        return ()

    def score_all(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> list[dict[str, float]]:
        """Metrics of many predictions; override where they can be scored side by side."""
        return [self.score(e, p) for e, p in zip(examples, predictions, strict=True)]

    def score(self, example: Example, prediction: Prediction) -> dict[str, float]:
        """Metrics of one prediction by name; the card's primary metric is among them.

        The default covers the modes ``choice`` (``acc``: the likeliest option is the reference;
        ``acc_norm``: the same after division by the option's length in characters, as in
        lm-evaluation-harness) and ``teacher_forced`` (``exact_match``: every supervised token is
        predicted; ``token_accuracy``: the share that is).
        """
        if self.card.scoring == "choice":
            return _score_choice(example, prediction)
        if self.card.scoring == "teacher_forced":
            correct = prediction.correct_tokens
            return {
                "exact_match": float(bool(correct) and all(correct)),
                "token_accuracy": sum(correct) / len(correct) if correct else 0.0,
            }
        raise TypeError(f"task {self.name!r} generates text and must define score()")


def _score_choice(example: Example, prediction: Prediction) -> dict[str, float]:
    by_sum, by_mean = chosen_options(example, prediction)
    return {
        "acc": float(by_sum == example.reference),
        "acc_norm": float(by_mean == example.reference),
    }


def chosen_options(example: Example, prediction: Prediction) -> tuple[str, str]:
    """The likeliest option, and the likeliest one a character; the first of equal ones."""
    sums = prediction.option_log_likelihoods
    means = [
        total / max(len(option), 1) for total, option in zip(sums, example.options, strict=True)
    ]
    return example.options[_arg_max(sums)], example.options[_arg_max(means)]


def _arg_max(values: Sequence[float]) -> int:
    """Position of the largest value; the first of equal ones."""
    return max(range(len(values)), key=lambda position: values[position])


def _problem(item: object) -> str | None:
    if not isinstance(item, type) or not issubclass(item, Task):
        return "is not a task: derive its class from epi_bench.Task"
    if not isinstance(getattr(item, "card", None), TaskCard):
        return "has no card: set card = epi_bench.TaskCard(...) in its class"
    return abstract_methods(item)


def _suites() -> list[str]:
    """Their names, which ``--tasks`` understands first."""
    return [path.stem for path in shipped_file("suites").glob("*.toml")]


TASKS: Registry[type[Task]] = Registry(
    "task",
    "epi_bench.tasks",
    "epi_bench.tasks",
    problem=_problem,
    reserved=_suites,
    libraries={"lm_eval": "epi_bench.task.harness_task:harness_task"},
)


TaskType = TypeVar("TaskType", bound=type[Task])


def register_task(name: str) -> Callable[[TaskType], TaskType]:
    """Class decorator that makes a :class:`Task` known as ``name``."""
    return TASKS.register(name)


def create_task(
    name: str, data_dir: Path | None = None, options: Mapping[str, Any] | None = None
) -> Task:
    """The task of that name, with its options set.

    Args:
        name: As registered.
        data_dir: Folder with local data sets; ``None`` loads from the hub.
        options: As the user gave them; those left out keep their defaults.

    Raises:
        UserError: If the name or an option is unknown, a value is of a wrong type, or the task
            cannot be made.
    """
    task_type = TASKS.get(name)
    checked = check_options(f"task {name!r}", task_type, options or {}, skip=1)
    with foreign_code(f"task {name!r} cannot be made"):
        return task_type(data_dir, **checked)


def changed_task_options(
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, JsonValue]]:
    """For each task its options that differ from their defaults; tasks without any are left out.

    Raises:
        UserError: For an unknown task or option, or a value of a wrong type.
    """
    changed = {
        name: changed_options(f"task {name!r}", TASKS.get(name), values, skip=1)
        for name, values in sorted(options.items())
    }
    return {name: values for name, values in changed.items() if values}
