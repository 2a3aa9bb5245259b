"""epi-bench: which fine-tuning strategy keeps old abilities while it learns new ones?

The names below are the public interface; plugins need nothing else. They are imported when they
are first used, so that ``import epi_bench`` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.answer_programs import complete_function, python_code
    from epi_bench.bridges import Protection, protect
    from epi_bench.chat import ChatEncoder, EncodedExample
    from epi_bench.classification_task import ClassificationTask
    from epi_bench.code_task import CodeTask, pass_at_k
    from epi_bench.config import TrainingSpec
    from epi_bench.dataset_task import DatasetTask, Skipped, ask
    from epi_bench.errors import TrainingFailedError, UserError
    from epi_bench.fisher import diagonal_fisher
    from epi_bench.instruction_task import InstructionTask
    from epi_bench.isolation import (
        ElasticAnchor,
        Isolation,
        IsolationStrategy,
        normalise,
        reassign,
        unit_mean,
    )
    from epi_bench.python_source import defined_names, used_names
    from epi_bench.row import Row, is_missing
    from epi_bench.sandbox import CodeRunner, Limits, Program, Verdict
    from epi_bench.strategy import (
        Experience,
        Step,
        Strategy,
        StrategyContext,
        register_strategy,
    )
    from epi_bench.stream import ExperiencePlan, register_stream
    from epi_bench.task import (
        DataSource,
        Example,
        Message,
        Prediction,
        Split,
        Task,
        TaskCard,
        register_task,
    )
    from epi_bench.text_scores import score_text
    from epi_bench.written_numbers import marked_number

_HOME = {
    "complete_function": "answer_programs",
    "python_code": "answer_programs",
    "Protection": "bridges",
    "protect": "bridges",
    "ChatEncoder": "chat",
    "EncodedExample": "chat",
    "ClassificationTask": "classification_task",
    "CodeTask": "code_task",
    "pass_at_k": "code_task",
    "TrainingSpec": "config",
    "DatasetTask": "dataset_task",
    "Skipped": "dataset_task",
    "ask": "dataset_task",
    "TrainingFailedError": "errors",
    "UserError": "errors",
    "diagonal_fisher": "fisher",
    "InstructionTask": "instruction_task",
    "ElasticAnchor": "isolation",
    "Isolation": "isolation",
    "IsolationStrategy": "isolation",
    "defined_names": "python_source",
    "used_names": "python_source",
    "CodeRunner": "sandbox",
    "Limits": "sandbox",
    "Program": "sandbox",
    "Verdict": "sandbox",
    "normalise": "isolation",
    "reassign": "isolation",
    "unit_mean": "isolation",
    "Row": "row",
    "is_missing": "row",
    "Experience": "strategy",
    "Step": "strategy",
    "Strategy": "strategy",
    "StrategyContext": "strategy",
    "register_strategy": "strategy",
    "ExperiencePlan": "stream",
    "register_stream": "stream",
    "DataSource": "task",
    "Example": "task",
    "Message": "task",
    "Prediction": "task",
    "Split": "task",
    "Task": "task",
    "TaskCard": "task",
    "register_task": "task",
    "score_text": "text_scores",
    "marked_number": "written_numbers",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"epi_bench.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
