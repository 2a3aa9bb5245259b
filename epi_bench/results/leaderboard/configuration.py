"""Which runs are repetitions of one another, and how such a group is called.

Runs of one track are repetitions if they differ in seed and task order only: strategy,
hyperparameters, optimizer settings, number format and plugin code are the same. The name shows
what a reader needs to tell groups apart: ``epi``, ``epi (ratio=0.3)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from epi_bench.results.record.run_record import RunRecord
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import TrainingSpec, short_hash

OPTIMIZATION = (
    "optimizer",
    "learning_rate",
    "warmup_share",
    "decay",
    "weight_decay",
    "max_gradient_norm",
    "autocast",
    "master_weights",
    "fresh_optimizer",
)
"""Training settings that a run may choose within its track."""


PUBLISHED = " (published)"
"""End of the label of published runs that stand beside one's own."""


def group_by_configuration(
    records: Sequence[RunRecord], published: Sequence[RunRecord] = ()
) -> dict[str, list[RunRecord]]:
    """The repetitions of each configuration by its label, in order of the labels.

    Args:
        records: Runs of one track.
        published: Published runs beside them, which are never repetitions of them; their labels
            end in :data:`PUBLISHED`.
    """
    if not published:
        return _labelled(records)
    foreign = {id(record) for record in published}
    groups: dict[str, list[RunRecord]] = {}
    for label, group in _labelled([*records, *published]).items():
        for record in group:
            own = id(record) not in foreign
            groups.setdefault(label if own else label + PUBLISHED, []).append(record)
    return dict(sorted(groups.items()))


def _labelled(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        key = short_hash({"name": record.strategy.name, "settings": settings_of(record)})
        groups.setdefault(key, []).append(record)
    by_short_label: dict[str, list[list[RunRecord]]] = {}
    for group in groups.values():
        label = _label(group[0].strategy.name, _shown(group))
        by_short_label.setdefault(label, []).append(group)
    labelled: dict[str, list[RunRecord]] = {}
    for label, same in by_short_label.items():
        labelled.update({label: same[0]} if len(same) == 1 else _tell_apart(same))
    return dict(sorted(labelled.items()))


def settings_of(record: RunRecord) -> dict[str, Any]:
    """Everything beside strategy name, seed and order that a run chose within its track."""
    training = record.spec.training.model_dump(mode="json")
    settings = {f"strategy.{k}": v for k, v in record.strategy.hyperparameters.items()}
    settings |= {f"training.{name}": training[name] for name in OPTIMIZATION}
    settings["model.dtype"] = record.spec.model.dtype
    if (adapter := record.spec.adapter).kind != "none":
        settings["adapter.adapter"] = adapter.kind
        for name in ("rank", "alpha", "target_modules"):
            settings[f"adapter.adapter_{name}"] = getattr(adapter, name)
    if record.strategy.source == "plugin":
        code = record.fingerprints.plugins.get(f"strategy:{record.strategy.name}")
        settings["plugin.code"] = (code or record.fingerprints.plugin or "")[:8]
    return {name: _canonical(value) for name, value in sorted(settings.items())}


def _shown(group: Sequence[RunRecord]) -> dict[str, Any]:
    """The settings that the label shows: what the user set, as far as it differs from the default.

    An option that one of the runs left out has its default value in all of them.
    """
    first = group[0]
    given = set.intersection(*(set(record.spec.strategy.options) for record in group))
    settings = settings_of(first)
    defaults = _default_training(first.spec.model.name).model_dump(mode="json")
    shown = {name for name in settings if name.removeprefix("strategy.") in given}
    shown |= {
        f"training.{name}"
        for name in OPTIMIZATION
        if settings[f"training.{name}"] != _canonical(defaults[name])
    }
    shown |= {"adapter.adapter"} & settings.keys()
    for name in first.spec.adapter.model_dump(exclude_defaults=True, exclude={"kind"}):
        shown.add(f"adapter.adapter_{name}")
    if first.spec.model.dtype != "float32":
        shown.add("model.dtype")
    return {name: settings[name] for name in settings if name in shown}


def _tell_apart(groups: Sequence[list[RunRecord]]) -> dict[str, list[RunRecord]]:
    """Labels for groups that would have the same one: with every setting in which they differ."""
    every = [settings_of(group[0]) for group in groups]
    names = dict.fromkeys(name for settings in every for name in settings)
    differing = [name for name in names if len({_text(s.get(name)) for s in every}) > 1]
    labelled = {}
    for group, settings in zip(groups, every, strict=True):
        shown = _shown(group) | {name: settings.get(name) for name in differing}
        labelled[_label(group[0].strategy.name, shown)] = group
    return labelled


def _label(name: str, shown: Mapping[str, Any]) -> str:
    if not shown:
        return name
    described = ", ".join(f"{key.split('.', 1)[1]}={_text(shown[key])}" for key in sorted(shown))
    return f"{name} ({described})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _canonical(value: Any) -> Any:
    """A JSON value in which 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    return value


@lru_cache
def _default_training(model: str) -> TrainingSpec:
    return complete_spec({"model": {"name": model}}).training
