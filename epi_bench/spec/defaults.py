"""The defaults that depend on the model, and the specification that they complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from epi_bench.errors import UserError
from epi_bench.spec.explain import explain_validation
from epi_bench.spec.run_spec import RunSpec

TINY_DEFAULTS: dict[str, Any] = {
    "data": {"max_length": 128},
    "training": {
        "steps": 100,
        "batch_size": 20,
        "learning_rate": 1.5e-3,
        "warmup_share": 0.05,
        "decay": "linear",
    },
    "evaluation": {"batch_size": 200},
    "threads": 1,
}
"""Budget of the embedded ``tiny`` model; one thread, because more are not faster at its size."""


MODEL_DEFAULTS: dict[str, Any] = {"training": {"epochs": 1.0}}
"""Budget of any other model."""


def complete_spec(values: Mapping[str, Any]) -> RunSpec:
    """A specification from what the user gave, the rest from the defaults for that model.

    Args:
        values: Nested as the sections of :class:`RunSpec`; a given budget (``steps`` or
            ``epochs``) replaces the default one.

    Raises:
        UserError: For an unknown key or a value out of range; the key is named.
    """
    model = dict(values.get("model") or {})
    tiny = model.get("name", "tiny") == "tiny"
    merged = _merge(TINY_DEFAULTS if tiny else MODEL_DEFAULTS, values)
    given = dict(values.get("training") or {})
    for budget, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(budget) is not None and given.get(other) is None:
            merged["training"].pop(other, None)
    try:
        return RunSpec.model_validate(merged)
    except ValidationError as error:
        raise UserError(explain_validation(error, RunSpec)) from error


def _merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in defaults.items()}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
