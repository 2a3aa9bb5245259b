"""Scores of a model as it is, without training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from epi_bench.api.selection import existing_folder, spec_on_tasks
from epi_bench.errors import UserError, foreign_code
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.runs.quiet import quiet_libraries
from epi_bench.spec.run_spec import RunSpec
from epi_bench.task.files.selection import TaskSelection, select_tasks
from epi_bench.task.harness_task import use_task_folder
from epi_bench.task.task import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from epi_bench.evaluation.evaluator import TaskEvaluator
    from epi_bench.evaluation.harness_evaluator import HarnessEvaluator
    from epi_bench.evaluation.scores import TaskScores
    from epi_bench.model.chat.chat_encoder import ChatEncoder


def evaluate(
    model: str | Path | PreTrainedModel,
    tasks: str | Path | Sequence[str | Path] = "mini",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    data_dir: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    test_examples: int | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    allow_code_execution: bool = False,
    lm_eval_path: str | Path | None = None,
) -> dict[str, TaskScores]:
    """Score a model on the test examples of tasks, as a run scores it.

    Args:
        model: ``"tiny"``, a folder, a ``.gguf`` file or a hub id; or a causal language model of
            transformers, which is scored where it is (its training mode is restored).
        tasks: Names of tasks or suites, ``.toml`` files that describe them, or ``lm_eval:NAME`` for
            a task of lm-evaluation-harness.
        tokenizer: Of a model that is given as an object; a path brings its own.
        data_dir: Folder with local data sets; ``None`` loads them from the hub.
        plugins: Python files that register tasks.
        test_examples: Test examples of each task; ``None`` takes all.
        max_length: Longest conversation in tokens; ``None`` is the default of a run.
        max_new_tokens: Longest answer to generate, for tasks that allow a longer one.
        batch_size: Examples scored at once; does not change the scores.
        dtype: Type in which weights are loaded from a path.
        allow_code_execution: Whether tasks may run code that the model wrote, in a sandbox.
        lm_eval_path: Folder with tasks of lm-evaluation-harness beside those that it brings.

    Returns:
        For each task its scores; ``mean`` is the task's score from 0 to 100, ``standard_error``
        belongs to it, ``metrics`` holds every metric in the task's own units.

    Raises:
        UserError: For anything the caller can fix.

    Example:
        ```python
        scores = epi_bench.evaluate("tiny", ["mini_math"], test_examples=20)
        scores["mini_math"].mean
        ```
    """
    load_plugin_files(map(Path, [plugins] if isinstance(plugins, str | Path) else plugins))
    if lm_eval_path is not None:
        use_task_folder(Path(lm_eval_path))
    selected = select_tasks(
        [str(entry) for entry in ([tasks] if isinstance(tasks, str | Path) else tasks)]
    )
    if not selected.names:
        raise UserError("tasks names no task")
    is_path = isinstance(model, str | Path)
    evaluation = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    spec = spec_on_tasks(
        {
            "model": {"name": str(model) if is_path else "in memory", "dtype": dtype},
            "data": _given(test_examples=test_examples, max_length=max_length),
            "evaluation": _given(**evaluation),
        },
        *_by_origin(selected),
    )
    folder = existing_folder(Path(data_dir).expanduser()) if data_dir else None
    if is_path and tokenizer is not None:
        raise UserError(f"model {str(model)!r} brings its tokenizer: leave tokenizer out")
    with quiet_libraries(), _numerics(spec):
        scored, own = _from_path(spec) if is_path else (model, _own_tokenizer(model, tokenizer))
        return _score(scored, own, spec, selected.names, folder, allow_code_execution)


def _by_origin(selected: TaskSelection) -> tuple[TaskSelection, TaskSelection]:
    """This package's tasks, and those of other libraries, which a specification never trains."""
    others = [name for name in selected.names if TASKS.is_of_library(name)]
    own = [name for name in selected.names if name not in others]
    return replace(selected, names=own), TaskSelection(others)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _numerics(spec: RunSpec) -> Iterator[None]:
    """The numerical settings of a run, so that the scores are those of its base row."""
    from epi_bench.runs.reproducibility import current_execution, fixed_numerics

    with fixed_numerics(current_execution().resolve(spec).threads):
        yield


def _from_path(spec: RunSpec) -> tuple[Any, Any]:
    import torch

    from epi_bench.model.load import load_backbone

    backbone = load_backbone(spec.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return backbone.model.to(device), backbone.tokenizer  # type: ignore[arg-type]


def _own_tokenizer(model: Any, tokenizer: Any) -> Any:
    """The caller's tokenizer, or a copy of it that can pad."""
    if not hasattr(model, "config") or not hasattr(model, "forward"):
        raise UserError(
            f"model is a {type(model).__name__}: give a path, a hub id, or a causal language model "
            "of transformers"
        )
    if tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: add tokenizer=...")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-text token")
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _score(
    model: Any,
    tokenizer: Any,
    spec: RunSpec,
    names: Sequence[str],
    data_dir: Path | None,
    allow_code_execution: bool,
) -> dict[str, TaskScores]:
    from epi_bench.model.chat.chat_encoder import ChatEncoder
    from epi_bench.model.limits import check_fit

    encoder = ChatEncoder(tokenizer, spec.data.max_length)
    evaluators = {
        name: _evaluator(name, spec, encoder, data_dir, allow_code_execution) for name in names
    }
    named = {name: f"a text of task {name!r}" for name in evaluators}
    check_fit(
        model,
        tokenizer,
        {
            named[n]: max((len(example) for example in e.encoded), default=0)
            for n, e in evaluators.items()
        },
        {named[n]: e.longest_with_answer for n, e in evaluators.items()},
        (example.input_ids for e in evaluators.values() for example in e.encoded),
    )
    return {name: evaluator.score(model) for name, evaluator in evaluators.items()}


def _evaluator(
    name: str,
    spec: RunSpec,
    encoder: ChatEncoder,
    data_dir: Path | None,
    allow_code_execution: bool,
) -> TaskEvaluator | HarnessEvaluator:
    from epi_bench.evaluation.evaluator import evaluator_of
    from epi_bench.runs.examples import permitted, select_examples
    from epi_bench.task.example_checks import check_examples
    from epi_bench.task.task import create_task

    made = create_task(name, data_dir, spec.data.options.get(name))
    task = permitted(made, allow_code_execution)
    with foreign_code(f"task {name!r} fails to make its examples"):
        published = task.examples("test")
        check_examples(task, "test", published)
    examples = select_examples(task, "test", spec.data.test_examples, published)
    if not examples:
        raise UserError(f"task {name!r} has no test examples")
    return evaluator_of(
        task, examples, encoder, spec.evaluation.batch_size, spec.evaluation.max_new_tokens
    )
