"""What makes two runs the same run."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from epi_bench.config import RunSpec, short_hash
from epi_bench.options import complete_options
from epi_bench.strategy import STRATEGIES
from epi_bench.stream import STREAMS
from epi_bench.track import SCHEMA_VERSION, TRAINING_PROTOCOL


def run_id(
    spec: RunSpec,
    fingerprints: Mapping[str, str],
    execution: Mapping[str, JsonValue] | None = None,
) -> str:
    """The run's identity: 12 hexadecimal digits.

    Equal for specifications that mean the same: options at their default and options not given
    are one. A setting that a later version adds leaves identities alone as long as it has its
    default, and a changed default of a strategy makes another run.

    Args:
        spec: The specification; settings that cannot change a result are left out.
        fingerprints: Content hashes of what the specification only names: model, data, plugins.
        execution: What ``Execution.identity`` says of the process; empty for a plain one.

    Raises:
        UserError: For an unknown strategy, stream or option.
    """
    content = spec.model_dump(mode="json", exclude_defaults=True)
    content.get("evaluation", {}).pop("batch_size", None)
    strategy = STRATEGIES.get(spec.strategy.name)
    content["strategy"] = {
        "name": spec.strategy.name,
        "options": complete_options(
            f"strategy {spec.strategy.name!r}", strategy, spec.strategy.options
        ),
    }
    content["stream"] = {
        **content.get("stream", {}),
        "options": complete_options(
            f"stream {spec.stream.kind!r}",
            STREAMS.get(spec.stream.kind),
            spec.stream.options,
            skip=1,
        ),
    }
    return short_hash(
        {
            "schema": SCHEMA_VERSION,
            "training_protocol": TRAINING_PROTOCOL,
            "spec": content,
            "fingerprints": dict(fingerprints),
            **({"execution": dict(execution)} if execution else {}),
        }
    )
