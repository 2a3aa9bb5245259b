"""epi-bench: which fine-tuning strategy keeps old abilities while it learns new ones?

The names below are the public interface; plugins need nothing else. They are imported when they
are first used, so that ``import epi_bench`` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.bridges import Protection, protect
    from epi_bench.errors import TrainingFailedError, UserError
    from epi_bench.isolation import Isolation
    from epi_bench.isolation.saved_state import state_part
    from epi_bench.model.chat.chat_encoder import ChatEncoder
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.sandbox import (
        CodeRunner,
        Limits,
        Program,
        Verdict,
    )
    from epi_bench.spec.run_spec import TrainingSpec
    from epi_bench.spec.streams import ExperiencePlan, register_stream
    from epi_bench.strategy.elastic_anchor import ElasticAnchor
    from epi_bench.strategy.fisher import diagonal_fisher, experience_fisher
    from epi_bench.strategy.hooks import Experience, Step, StrategyContext
    from epi_bench.strategy.isolation_strategy import IsolationStrategy
    from epi_bench.strategy.scores import normalise, reassign, unit_mean
    from epi_bench.strategy.strategy import Strategy, register_strategy
    from epi_bench.task.answer_programs import complete_function, python_code
    from epi_bench.task.classification_task import ClassificationTask
    from epi_bench.task.code_task import CodeTask, pass_at_k
    from epi_bench.task.dataset_task import DatasetTask, Skipped
    from epi_bench.task.example import Example, Message, Prediction, ask, conversation
    from epi_bench.task.generated_task import SYNTHETIC_WORDS, GeneratedTask
    from epi_bench.task.instruction_task import InstructionTask
    from epi_bench.task.python_source import defined_names, used_names
    from epi_bench.task.rows.row import Row, is_missing
    from epi_bench.task.rows.source import DataSource, Split
    from epi_bench.task.task import Task, TaskCard, register_task
    from epi_bench.task.text_scores import score_text
    from epi_bench.task.written_numbers import marked_number

_HOME = {
    "complete_function": "task.answer_programs",
    "python_code": "task.answer_programs",
    "Protection": "bridges",
    "protect": "bridges",
    "ChatEncoder": "model.chat.chat_encoder",
    "EncodedExample": "model.chat.encoded_example",
    "ClassificationTask": "task.classification_task",
    "CodeTask": "task.code_task",
    "pass_at_k": "task.code_task",
    "TrainingSpec": "spec.run_spec",
    "DatasetTask": "task.dataset_task",
    "Skipped": "task.dataset_task",
    "ask": "task.example",
    "conversation": "task.example",
    "GeneratedTask": "task.generated_task",
    "SYNTHETIC_WORDS": "task.generated_task",
    "TrainingFailedError": "errors",
    "UserError": "errors",
    "diagonal_fisher": "strategy.fisher",
    "experience_fisher": "strategy.fisher",
    "state_part": "isolation.saved_state",
    "InstructionTask": "task.instruction_task",
    "ElasticAnchor": "strategy.elastic_anchor",
    "Isolation": "isolation",
    "IsolationStrategy": "strategy.isolation_strategy",
    "normalise": "strategy.scores",
    "reassign": "strategy.scores",
    "unit_mean": "strategy.scores",
    "defined_names": "task.python_source",
    "used_names": "task.python_source",
    "Row": "task.rows.row",
    "is_missing": "task.rows.row",
    "CodeRunner": "sandbox",
    "Limits": "sandbox",
    "Program": "sandbox",
    "Verdict": "sandbox",
    "Experience": "strategy.hooks",
    "Step": "strategy.hooks",
    "StrategyContext": "strategy.hooks",
    "Strategy": "strategy.strategy",
    "register_strategy": "strategy.strategy",
    "ExperiencePlan": "spec.streams",
    "register_stream": "spec.streams",
    "DataSource": "task.rows.source",
    "Split": "task.rows.source",
    "Example": "task.example",
    "Message": "task.example",
    "Prediction": "task.example",
    "Task": "task.task",
    "TaskCard": "task.task",
    "register_task": "task.task",
    "score_text": "task.text_scores",
    "marked_number": "task.written_numbers",
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
