"""The run id that follows from what determines a run's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epi_bench.spec.run_spec import RunSpec, short_hash


def identity_hash(
    spec: RunSpec,
    strategy_options: Mapping[str, Any],
    stream_options: Mapping[str, Any],
    task_options: Mapping[str, Mapping[str, Any]],
    fingerprints: Mapping[str, str],
    execution: Mapping[str, Any],
    *,
    schema: int,
    protocol: int,
) -> str:
    """Twelve hexadecimal digits, equal for runs that must give equal numbers.

    Args:
        spec: The specification; settings at their default do not count, so that a setting which a
            later version adds leaves identities alone.
        strategy_options: All of them, the defaults filled in.
        stream_options: The same of the stream.
        task_options: For each task those that differ from their defaults; without the others.
        fingerprints: Content hashes of what the specification only names: model, data, plugins.
        execution: What of the process counts; empty for one plain process on the CPU.
        schema: Version of the record's schema.
        protocol: ``TRAINING_PROTOCOL`` of the version that trained the run.
    """
    content = spec.model_dump(mode="json", exclude_defaults=True)
    content.get("evaluation", {}).pop("batch_size", None)
    data = content.get("data", {})
    data.pop("options", None)
    data.pop("general_text", None)  # its content is among the fingerprints
    if task_options:
        content["data"] = {**data, "options": {k: dict(v) for k, v in task_options.items()}}
    elif not data:
        content.pop("data", None)
    content["strategy"] = {"name": spec.strategy.name, "options": dict(strategy_options)}
    content["stream"] = {**content.get("stream", {}), "options": dict(stream_options)}
    return short_hash(
        {
            "schema": schema,
            **({"training_protocol": protocol} if protocol > 1 else {}),
            "spec": content,
            "fingerprints": dict(fingerprints),
            **({"execution": dict(execution)} if execution else {}),
        }
    )
