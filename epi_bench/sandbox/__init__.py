"""Running code that a model wrote, shut off from the system, with verdicts it cannot forge.

``docs/code_execution.md`` says what is protected against what.
"""

from __future__ import annotations

from epi_bench.sandbox.program import (
    SANDBOX_MODES,
    Limits,
    Program,
    SandboxError,
    SandboxMode,
    Verdict,
)
from epi_bench.sandbox.runner import CodeRunner

__all__ = [
    "SANDBOX_MODES",
    "CodeRunner",
    "Limits",
    "Program",
    "SandboxError",
    "SandboxMode",
    "Verdict",
]
