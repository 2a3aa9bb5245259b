"""What makes two runs the same run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from pydantic import JsonValue

from epi_bench.results.record.run_identity import identity_hash
from epi_bench.results.record.track import SCHEMA_VERSION, TRAINING_PROTOCOL
from epi_bench.spec.run_spec import RunSpec
from epi_bench.spec.streams import STREAMS, complete_stream_options
from epi_bench.strategy.strategy import STRATEGIES, complete_strategy_options
from epi_bench.task.example import Example
from epi_bench.task.task import TASKS, Task, TaskCard, changed_task_options

TOLD_ONLY = ("summary", "ability", "licence", "chance", "source", "needs_code_execution", "units")
"""Fields of a task's card that change no score."""


def run_id(
    spec: RunSpec,
    fingerprints: Mapping[str, str],
    execution: Mapping[str, JsonValue] | None = None,
    *,
    strategy_options: Mapping[str, JsonValue] | None = None,
    stream_options: Mapping[str, JsonValue] | None = None,
) -> str:
    """The run's identity: 12 hexadecimal digits.

    Equal for specifications that mean the same: options at their default and options not given
    are one. A setting that a later version adds leaves identities alone as long as it has its
    default, and a changed default of a strategy makes another run.

    Args:
        spec: The specification; settings that cannot change a result are left out.
        fingerprints: Content hashes of what the specification only names: model, data, plugins.
        execution: What ``Execution.identity`` says of the process; empty for a plain one.
        strategy_options: As ``complete_strategy_options`` gives them; ``None`` completes those of
            the specification.
        stream_options: The same of the stream.

    Raises:
        UserError: For an unknown strategy, stream or option.
    """
    strategy, stream = spec.strategy, spec.stream
    if strategy_options is None:
        strategy_options = complete_strategy_options(strategy.name, strategy.options)
    if stream_options is None:
        stream_options = complete_stream_options(stream.kind, stream.options)
    return identity_hash(
        spec,
        strategy_options,
        stream_options,
        changed_task_options(spec.data.options),
        fingerprints,
        execution or {},
        schema=SCHEMA_VERSION,
        protocol=TRAINING_PROTOCOL,
    )


def task_fingerprint(
    task: Task,
    examples: Sequence[Example],
    code: str | None = None,
    options: Mapping[str, JsonValue] | None = None,
) -> str:
    """SHA-256 of everything that a task's scores depend on.

    Args:
        task: Its card and scoring settings count.
        examples: Those of the run, both splits, with what the scorer needs of each; of a task that
            is scored only, those of the test.
        code: Hash of the task's source, if it comes from a plugin.
        options: The task's options that differ from their defaults: some change its scoring alone.
    """
    digest = hashlib.sha256()
    head: dict[str, Any] = {
        "card": _scoring_card(task.card),
        "settings": dict(task.scoring_settings),
        "code": code,
    }
    if options:
        head["options"] = dict(options)
    digest.update(_canonical(head))
    for example in examples:
        row = [list(map(dict, example.messages)), example.reference, list(example.options)]
        digest.update(_canonical([*row, dict(example.meta)]))
    return digest.hexdigest()


def plugin_fingerprints(spec: RunSpec) -> dict[str, str]:
    """SHA-256 of the source of each plugin that takes part in a run.

    A plugin takes part if the run's strategy, stream or one of its tasks comes from it. What else
    was given with ``--plugin`` leaves the identity alone, so that a run is the same run beside
    other strategies, and single-task references are shared while a plugin is being written.

    Returns:
        By ``strategy:NAME``, ``stream:NAME`` and ``task:NAME``; without the built-ins.
    """
    found = {
        f"strategy:{spec.strategy.name}": STRATEGIES.code_fingerprint(spec.strategy.name),
        f"stream:{spec.stream.kind}": STREAMS.code_fingerprint(spec.stream.kind),
        **{f"task:{name}": TASKS.code_fingerprint(name) for name in sorted(spec.data.scored_tasks)},
    }
    return {name: code for name, code in found.items() if code is not None}


def _scoring_card(card: TaskCard) -> dict[str, Any]:
    """The fields of a card that may change a score, where they are not at their default.

    A field that a later version adds so leaves identities alone.
    """
    values = {f.name: (getattr(card, f.name), _default(f)) for f in fields(card)}
    return {
        name: value
        for name, (value, default) in values.items()
        if name not in TOLD_ONLY and value != default
    }


def _default(described: Field[Any]) -> object:
    if described.default_factory is not MISSING:
        return described.default_factory()
    return described.default


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_as_text)
    return text.encode("utf-8", "surrogatepass")


def _as_text(value: object) -> object:
    """What a scorer keeps beside its examples may be anything; addresses in memory do not count."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
