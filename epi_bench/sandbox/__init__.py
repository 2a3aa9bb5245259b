"""Running code that a model wrote, shut off from the system, with verdicts it cannot forge.

``docs/code_execution.md`` says what is protected against what.
"""

from __future__ import annotations

from epi_bench.sandbox.runner import (
    PROTECTIONS,
    CodeRunner,
    Limits,
    Program,
    Protection,
    SandboxError,
    Verdict,
)

__all__ = [
    "PROTECTIONS",
    "CodeRunner",
    "Limits",
    "Program",
    "Protection",
    "SandboxError",
    "Verdict",
]
