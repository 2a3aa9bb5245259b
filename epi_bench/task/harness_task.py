"""Tasks of lm-evaluation-harness, by name: ``lm_eval:hellaswag``.

The harness asks and scores; here is what a run must know beforehand: the documents, which metric is
the score, and everything that the score depends on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from pydantic import JsonValue

from epi_bench.errors import UserError, foreign_code, unknown_name
from epi_bench.spec.randomness import kept_random_states
from epi_bench.task.example import Example, ask
from epi_bench.task.rows.source import Split
from epi_bench.task.task import Task, TaskCard

PREFERRED = ("acc_norm", "acc", "exact_match")
"""Metrics that are the score of a task which has them, the first one first."""

_FOLDERS: list[Path] = []


def use_task_folder(folder: Path) -> None:
    """Let this process find the harness's tasks that lie in a folder, before its own.

    Args:
        folder: With ``.yaml`` files as the harness reads them; subfolders are looked through.

    Raises:
        UserError: If it does not exist.
    """
    place = folder.expanduser()
    if not place.is_dir():
        raise UserError(
            f"task folder {folder} does not exist: check lm_eval_path", setting="lm_eval_path"
        )
    if place.resolve() not in _FOLDERS:
        _FOLDERS.append(place.resolve())


def harness_task(name: str) -> type[Task]:
    """The task that the harness knows by this name, as a task of this package.

    Args:
        name: Without the prefix.

    Raises:
        UserError: If lm-evaluation-harness is not installed. Whether it has the task is found out
            when the task is made.
    """
    if find_spec("lm_eval") is None:
        raise UserError(
            f"lm_eval:{name} is scored by lm-evaluation-harness, which is not installed: "
            "pip install 'epi-bench[lm-eval]'"
        )
    members = {"harness_name": name, "name": f"lm_eval:{name}", "__doc__": HarnessTask.__doc__}
    return type("HarnessTask", (HarnessTask,), members)


class HarnessTask(Task):
    """A task of lm-evaluation-harness: it asks, it scores, it says what is right.

    Args:
        data_dir: Not used: the task says where its data are.
        num_fewshot: Worked examples before each question; left out, as many as the task says.
        chat_template: Whether prompts are rendered with the model's chat template.
        metric: Which of its metrics is the score, such as ``acc`` or
            ``exact_match,flexible-extract`` (metric and filter); empty for the first of
            :data:`PREFERRED`, else the first in the task of which more is better.

    Attributes:
        definition: The harness's own task object.
        score_metric: Name of the score's metric, as the harness calls it.
        score_filter: Which of the task's filters it is computed after.
    """

    harness_name: ClassVar[str] = ""

    def __init__(
        self,
        data_dir: Path | None = None,
        num_fewshot: int | None = None,
        chat_template: bool = False,
        metric: str = "",
    ) -> None:
        super().__init__(data_dir)
        if num_fewshot is not None and num_fewshot < 0:
            raise UserError(f"task {self.name!r}: num_fewshot={num_fewshot} must be at least 0")
        self.chat_template = chat_template
        self.definition = load_definition(self.harness_name)
        if num_fewshot is not None:
            self.definition.set_config("num_fewshot", num_fewshot)
        filters = [str(f.name) for f in getattr(self.definition, "_filters", None) or ()]
        self.filters = filters or ["none"]
        self.score_metric, self.score_filter = self._score_of(metric)
        self.card = TaskCard(  # type: ignore[misc]  # each of these tasks has its own
            summary=f"{self.harness_name} of lm-evaluation-harness",
            ability=self.harness_name,
            scoring="lm_eval",
            metric=self.metric_label(self.score_metric, self.score_filter),
            licence="that of its data set",
        )

    def metric_label(self, metric: str, filter_name: str) -> str:
        """A metric's name in records: with its filter, where the task has filters."""
        return metric if filter_name == "none" else f"{metric},{filter_name}"

    def examples(self, split: Split) -> Sequence[Example]:
        """What is asked, as the task words it, without examples before it.

        Raises:
            UserError: Of the training split: these tasks are scored only.
        """
        if split != "test":
            raise UserError(
                f"task {self.name!r} is scored only: name it with data.eval_tasks, not data.tasks",
                setting="data.eval_tasks",
            )
        return [
            _example(self.definition, number, doc)
            for number, doc in enumerate(self.definition.eval_docs)
        ]

    @property
    def scoring_settings(self) -> dict[str, JsonValue]:
        """The harness's version and the whole definition: its scores depend on both."""
        settings = dict(self.definition.dump_config())
        # where the rows lie does not count: the rows themselves are among the examples
        for place in ("dataset_path", "dataset_kwargs", "custom_dataset"):
            settings.pop(place, None)
        found: dict[str, JsonValue] = {
            "lm_eval": version("lm-eval"),
            "definition": _digest(settings),
            "chat_template": self.chat_template,
            "score": self.card.metric,
        }
        if settings.get("num_fewshot"):
            found["fewshot"] = _digest([dict(doc) for doc in self._fewshot_documents()])
        return found

    def _fewshot_documents(self) -> Sequence[Any]:
        with foreign_code(f"task {self.name!r} has no examples to show before a question"):
            return list(self.definition.fewshot_docs())

    def _score_of(self, asked: str) -> tuple[str, str]:
        """Metric and filter of the score."""
        from lm_eval.api.metrics import mean

        higher, combined = self.definition.higher_is_better(), self.definition.aggregation()
        usable = [
            name
            for name, is_better in higher.items()
            if is_better and combined.get(name) in (mean, "mean")
        ]
        name, _, filter_name = asked.partition(",")
        if asked:
            if name not in usable:
                raise unknown_name(f"metric of task {self.name!r}", name, usable)
            if filter_name and filter_name not in self.filters:
                raise unknown_name(f"filter of task {self.name!r}", filter_name, self.filters)
            return name, filter_name or self.filters[0]
        if not usable:
            raise UserError(
                f"task {self.name!r} has no metric that is a mean over its items and of which more "
                f"is better ({', '.join(higher) or 'none at all'}), so it gives no score; the loss "
                "on a text is measured with data.general_text"
            )
        preferred = [metric for metric in PREFERRED if metric in usable]
        return (preferred or usable)[0], self.filters[0]


def load_definition(name: str) -> Any:
    """The harness's task of this name, its data loaded.

    Args:
        name: As the harness knows it; folders given with :func:`use_task_folder` come first.

    Raises:
        UserError: If there is none, it is a group, it cannot be loaded, or it needs what a run here
            does not offer.
    """
    shown = f"lm_eval:{name}"
    with _quiet(), kept_random_states(), foreign_code(f"task {shown!r} cannot be loaded"):
        manager = _manager_with(name)
        if name in manager.all_groups or name in manager.all_tags:
            raise UserError(
                f"{shown} is a group of lm-evaluation-harness's tasks: name its tasks, each with "
                "lm_eval: before it"
            )
        if name not in manager.all_subtasks:
            raise unknown_name("task of lm-evaluation-harness", name, manager.all_subtasks)
        definition = manager.load([name])["tasks"][name]
    if getattr(definition, "UNSAFE_CODE", False):
        raise UserError(
            f"{shown} runs code that the model wrote, outside of any sandbox: use this package's "
            "own tasks for code (humaneval, mbpp)"
        )
    if getattr(definition, "MULTIMODAL", False):
        raise UserError(f"{shown} asks about images or sounds, which no model here reads")
    return definition


def _manager_with(name: str) -> Any:
    """A task manager that may know the task: to look through all that the harness brings takes
    ten seconds, so a task's own folder is looked for first."""
    local = _manager(tuple(_FOLDERS))
    if local is not None and name in local.all_tasks:
        return local
    own = _folder_of(name)
    found = _manager((own,)) if own else None
    return found if found is not None and name in found.all_tasks else _whole_manager()


@lru_cache(maxsize=32)
def _manager(folders: tuple[Path, ...]) -> Any:
    from lm_eval.tasks import TaskManager

    if not folders:
        return None
    return TaskManager(include_path=[str(f) for f in folders], include_defaults=False)


@lru_cache(maxsize=1)
def _whole_manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder) for folder in _FOLDERS])


def _folder_of(name: str) -> Path | None:
    """The folder of the harness whose file defines a task or a group; ``None`` where no name leads
    to it, or several files do."""
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    quote = "[\"']?"
    line = re.compile(
        rf"^{quote}(?:task|group){quote}:\s*{quote}{re.escape(name)}{quote}\s*$", re.MULTILINE
    )
    parts = re.split(r"[_-]", name)
    for length in range(len(parts), 0, -1):
        folder = tasks / "_".join(parts[:length])
        files = folder.rglob("*.yaml") if folder.is_dir() else ()
        texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files}
        found = [path.parent for path, text in texts.items() if line.search(text)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _example(definition: Any, number: int, doc: Any) -> Example:
    """A document as a question and its answer; what the harness makes of it is its own."""
    prompt, target = definition.doc_to_text(doc), definition.doc_to_target(doc)
    options: tuple[str, ...] = ()
    if getattr(definition.config, "doc_to_choice", None) is not None:
        options = tuple(map(str, definition.doc_to_choice(doc)))
    if isinstance(target, list | tuple):
        target = target[0] if target else ""
    if isinstance(target, int) and target in range(len(options)):
        target = options[target]
    meta = {"row": number, "document": _digest(doc)}
    return Example(ask(str(prompt), str(target)), str(target), options, meta)


def _digest(value: Any) -> str:
    """SHA-256 of anything; addresses in memory do not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's hints to those who write its tasks."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
