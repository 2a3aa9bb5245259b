"""The defaults that depend on the model, and the specification that they complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from epi_bench.errors import UserError
from epi_bench.spec.explain import explain_validation
from epi_bench.spec.run_spec import ModelSpec, RunSpec

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


BUDGETS = ("steps", "epochs")
"""Settings of ``training`` that exclude each other: the one that is given wins."""

COMPLETE = "complete"
"""Key of a file that holds every setting of a run; what is missing from it has no value."""


def complete_spec(values: Mapping[str, Any]) -> RunSpec:
    """A specification from what the user gave, the rest from the defaults for that model.

    Args:
        values: Nested as the sections of :class:`RunSpec`; a given budget (``steps`` or
            ``epochs``) replaces the default one. With ``complete = true`` beside the sections,
            as in the ``run.toml`` of a finished run, the model's defaults are left out.

    Raises:
        UserError: For an unknown key or a value out of range; the key is named.

    >>> complete_spec({"training": {"epochs": 2}}).training.steps is None
    True
    >>> complete_spec({"model": {"name": "models/mine"}}).training.epochs
    1.0
    """
    settings = {name: value for name, value in values.items() if name != COMPLETE}
    if not _is_complete(values):
        settings = overlay_settings(model_defaults(_model_name(settings)), settings)
    try:
        return RunSpec.model_validate(settings)
    except ValidationError as error:
        raise explain_validation(error, RunSpec) from error


def model_defaults(name: str) -> Mapping[str, Any]:
    """The settings that depend on the model, nested as in a specification."""
    return TINY_DEFAULTS if name == "tiny" else MODEL_DEFAULTS


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, table by table: what both have is taken from ``over``."""
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in over.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, dict)
        merged[key] = overlay(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def overlay_settings(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The same for settings of a run: a budget given in one way replaces the other.

    >>> overlay_settings({"training": {"steps": 100}}, {"training": {"epochs": 2}})
    {'training': {'epochs': 2}}
    """
    merged = overlay(base, over)
    training = over.get("training")
    given = training if isinstance(training, Mapping) else {}
    for budget, other in (BUDGETS, BUDGETS[::-1]):
        if given.get(budget) is not None and given.get(other) is None:
            merged["training"].pop(other, None)
    return merged


def _is_complete(values: Mapping[str, Any]) -> bool:
    complete = values.get(COMPLETE, False)
    if not isinstance(complete, bool):
        raise UserError(
            f"{COMPLETE}={complete!r} must be true or false: whether every setting is given"
        )
    return complete


def _model_name(values: Mapping[str, Any]) -> str:
    model = values.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) else str(ModelSpec.model_fields["name"].default)
