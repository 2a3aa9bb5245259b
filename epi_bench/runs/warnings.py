"""What a user should know before a run is trained, though nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epi_bench.errors import foreign_code
from epi_bench.foreign_text import for_terminal
from epi_bench.model.base_text import GENERAL
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.precision import warn_of_slow_bfloat16
from epi_bench.runs.examples import EVAL_SPLITS
from epi_bench.runs.prepared import PreparedTask, ScoredTask
from epi_bench.spec.run_spec import AdapterSpec, RunSpec
from epi_bench.strategy.strategy import Strategy
from epi_bench.task.dataset_task import DatasetTask, same_answers
from epi_bench.task.rows.source import SPLITS, Split
from epi_bench.task.task import Task


def data_warnings(
    tasks: Mapping[str, PreparedTask], eval_tasks: Mapping[str, ScoredTask], encoder: ChatEncoder
) -> list[str]:
    """Warnings about the data: rows and examples left out or cut, test examples trained on.

    Args:
        tasks: Those that are trained, by name.
        eval_tasks: Those that are scored only, by name.
        encoder: What the examples were encoded with.
    """
    warnings = []
    if encoder.uses_default_template:
        warnings.append(
            "the tokenizer has no chat template: the default (ChatML) is used and recorded"
        )
    for name, prepared in tasks.items():
        warnings += _scoring_warnings(prepared.task)
        warnings += _row_warnings(prepared.task)
        warnings += _overlap_warnings(name, prepared, tasks)
        warnings += _length_warnings(prepared, encoder.max_length)
    for name, scored in eval_tasks.items():
        warnings += _scoring_warnings(scored.task)
        warnings += _row_warnings(scored.task, EVAL_SPLITS)
        warnings += _overlap_warnings(name, scored, tasks)
    return warnings


def idle_warnings(strategy: Strategy, experiences: int) -> list[str]:
    """A warning if the stream ends before the strategy does anything of its own.

    Args:
        strategy: Acts from its ``acts_from`` on.
        experiences: Of the stream.
    """
    if strategy.acts_from < experiences:
        return []
    return [
        f"{strategy.name} acts from experience {strategy.acts_from + 1} on: on this stream of "
        f"{experiences} it trains as full_sft does"
    ]


def base_text_warnings(source: str) -> list[str]:
    """A warning where the base is protected by the text on which it is measured afterwards.

    Args:
        source: ``protect_base`` of the strategy.
    """
    if source != GENERAL:
        return []
    return [
        "protect_base=general_text protects what the run's general text needs, and the loss on "
        "that text is reported too: it looks better than it would on another text"
    ]


def own_answer_warnings(strategy: Strategy, tasks: Mapping[str, PreparedTask]) -> list[str]:
    """A warning for each task whose one right answer is the given one.

    Args:
        strategy: May train on answers of the model that a task scores as right.
        tasks: Those that are trained, by name.
    """
    if not strategy.scores_answers:
        return []
    return [
        f"{strategy.name}: a right answer to {name!r} is the given one (its scoring is "
        f"{prepared.task.card.scoring}), so it trains this task as full_sft does"
        for name, prepared in tasks.items()
        if prepared.task.card.scoring != "generate"
    ]


def adapter_warnings(strategy: Strategy, adapter: AdapterSpec) -> list[str]:
    """A warning if the base model is to be protected by weights that do nothing in it yet.

    Args:
        strategy: May protect the base model.
        adapter: Of the run.
    """
    if adapter.kind == "none" or strategy.protect_base == "none":
        return []
    return [
        f"{strategy.name}: protect_base measures an adapter that changes nothing yet (B is zero): "
        "the text says how far each weight of B may leave zero and nothing about A, so it limits "
        "how much the adapter changes the base model, and not in which directions A turns"
    ]


def precision_warnings(spec: RunSpec, device: str) -> list[str]:
    """Warnings about training in bfloat16.

    Args:
        spec: The run.
        device: Type of the device, such as ``cpu``.
    """
    warnings = warn_of_slow_bfloat16(spec.training, spec.model.dtype) if device == "cpu" else []
    if spec.training.master_weights == "none":
        warnings.append(
            "the weights are trained in bfloat16: stochastic rounding adds noise to every update; "
            'training.master_weights = "float32" trains without it, in more memory'
        )
    return warnings


def _scoring_warnings(task: Task) -> list[str]:
    with foreign_code(f"task {task.name!r} fails to prepare its scoring"):
        return [for_terminal(str(warning)) for warning in task.prepare_scoring()]


def _row_warnings(task: Task, splits: Sequence[Split] = SPLITS) -> list[str]:
    """Rows of a published data set that made no example, and answers that are all the same."""
    if not isinstance(task, DatasetTask):
        return []
    lines = []
    for split in splits:
        report = task.report(split)
        for reason, count in report.skipped.items():
            lines.append(
                f"task {task.name!r}: {count} of {report.rows} {split} rows left out: {reason}"
            )
    found = same_answers({split: task.examples(split) for split in splits})
    return [*lines, *(f"task {task.name!r}: {warning}" for warning in found)]


def _overlap_warnings(
    name: str, scored: ScoredTask, tasks: Mapping[str, PreparedTask]
) -> list[str]:
    """What of a task's test examples is trained on, by itself or by another task of the run."""
    lines = []
    for other, prepared in tasks.items():
        split = "the training split" if other == name else f"the training split of {other!r}"
        warning = prepared.trained.overlap(scored.test).warning(split)
        if warning:
            lines.append(f"task {name!r}: {warning}")
    return lines


def _length_warnings(prepared: PreparedTask, max_length: int) -> list[str]:
    """Training examples that are longer than ``max_length`` tokens."""
    name, report, lines = prepared.task.name, prepared.report, []
    if report.unsupervised:
        lines.append(
            f"task {name!r}: {report.unsupervised} of {report.encoded + report.unsupervised} "
            "training examples left out, because nothing supervised remains within "
            f"{max_length} tokens"
        )
    if report.truncated:
        lines.append(
            f"task {name!r}: {report.truncated} of {report.encoded} training examples cut to "
            f"{max_length} tokens"
        )
    return lines
