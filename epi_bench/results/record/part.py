"""What all parts of a record share: unknown fields are refused, numbers are finite or missing."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def finite_or_none(value: Any) -> Any:
    """``None`` for NaN and infinity, which JSON cannot hold; any other value as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(finite_or_none)]
"""A number that may be undefined; NaN and infinity become ``None``."""


class Part(BaseModel):
    """Base of all parts of a record: immutable, unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
