"""The settings of a run as a list: name, type, range, default, help and flag of each.

All of it is read from the fields of :class:`~epi_bench.spec.run_spec.RunSpec`. The flags of the
command line, ``epi-bench settings`` and the reference page are made from this list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from epi_bench.spec.defaults import BUDGETS, model_defaults
from epi_bench.spec.flag import Flag
from epi_bench.spec.run_spec import RunSpec

_TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the specification.

    Attributes:
        name: Dotted, as in ``run.toml`` and messages: ``data.max_length``.
        field: What pydantic knows of it.
        annotation: Its type, without ``None``.
        flag: How the command line takes it.
    """

    name: str
    field: FieldInfo
    annotation: Any
    flag: Flag

    @property
    def flag_name(self) -> str:
        """The flag, such as ``--max-length``."""
        return self.flag.name or "--" + self.name.rpartition(".")[2].replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """Every value that is accepted; empty if they cannot be listed."""
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()

    @property
    def type_name(self) -> str:
        """The type in words; of a choice its values."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if get_origin(self.annotation) is tuple:
            return "list of texts"
        return _TYPE_NAMES.get(self.annotation, "table")

    @property
    def limits(self) -> str:
        """The range of a number in words, such as ``at least 8``; empty without one."""
        found = {
            name: getattr(limit, name)
            for limit in self.field.metadata
            for name in _BOUNDS
            if hasattr(limit, name)
        }
        return ", ".join(f"{_BOUNDS[name]} {bound}" for name, bound in found.items())

    @property
    def description(self) -> str:
        """The field's whole description."""
        return self.field.description or ""

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=\.)\s", self.description, maxsplit=1)[0]

    @property
    def default(self) -> str:
        """The default in words; of one that depends on the model, both."""
        tiny, other = (self._default_for(model_defaults(name)) for name in ("tiny", "another"))
        return tiny if tiny == other else f"{tiny} on tiny, else {other}"

    def _default_for(self, defaults: Mapping[str, Any]) -> str:
        section, _, key = self.name.rpartition(".")
        given = defaults.get(section, {}) if section else defaults
        if key in given:
            return _shown(given[key])
        if section == "training" and key in BUDGETS:
            return next(f"{name}={_shown(given[name])}" for name in BUDGETS if name in given)
        if self.flag.default_as:
            return self.flag.default_as
        return _shown(self.field.default)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@lru_cache(maxsize=1)
def all_settings() -> Mapping[str, Setting]:
    """Every setting by its dotted name, in the order of the specification.

    >>> all_settings()["data.max_length"].default
    '128 on tiny, else 1024'
    """
    return {setting.name: setting for setting in _settings_of(RunSpec, "")}


def _settings_of(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for key, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _settings_of(annotation, f"{prefix}{key}.")
            continue
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        optional = NoneType in get_args(annotation)
        flag = next(mark for mark in field.metadata if isinstance(mark, Flag))
        yield Setting(f"{prefix}{key}", field, kinds[0] if optional else annotation, flag)


def setting_flags() -> Mapping[str, str]:
    """The flag of each setting by the setting's dotted name."""
    return {name: setting.flag_name for name, setting in all_settings().items()}
