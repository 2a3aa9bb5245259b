"""The largest memory that a process has held: its resident set, or its allocations on a GPU."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux reports a process's memory, and where it is made to forget its peak."""

RESIDENT_SET = "5"
"""What makes Linux forget the largest resident set, written to :data:`FORGET`."""


def peak_memory_bytes(device: str) -> int:
    """The largest memory so far, or since :func:`forget_peak_memory`.

    Args:
        device: What is trained on, as torch names it: on ``cuda`` its largest allocation counts,
            elsewhere the largest resident set of this process.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    resident = _largest_resident_set()
    if resident is not None:
        return resident
    import resource

    # on Linux it is the parent's where that was larger, hence the last choice
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(usage if sys.platform == "darwin" else usage * 1024)


def forget_peak_memory(device: str) -> bool:
    """Let the peak begin at what is held now.

    Returns:
        Whether the system can do that; otherwise the peak stays that of the whole process.
    """
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    if not FORGET.exists():
        return False
    try:
        FORGET.write_text(RESIDENT_SET, encoding="ascii")
    except OSError:  # a container may forbid it
        return False
    return True


def _largest_resident_set() -> int | None:
    if not STATUS.is_file():
        return None
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
