"""What a process is asked to do: one run, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from epi_bench.runs.request import RunRequest
from epi_bench.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Order:
    """What a process is asked to do.

    Attributes:
        spec: The run.
        request: How it is made.
    """

    spec: RunSpec
    request: RunRequest

    def to_json(self) -> bytes:
        """The whole order in one line: every field of both, ``None`` included."""
        return _ORDER.dump_json(self)


def order_from_json(content: bytes) -> Order:
    """The order that :meth:`Order.to_json` wrote."""
    return _ORDER.validate_json(content)


_ORDER = TypeAdapter(Order)
