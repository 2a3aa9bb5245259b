"""What other libraries print is held back, and nothing of one's own is."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

from epi_bench.runs.quiet import quiet_libraries

WARN = "warnings.warn_explicit('soon', {kind}, 'file.py', 1, module='{module}')"


def shown(module, kind=FutureWarning):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn_explicit("soon", kind, "file.py", 1, module=module)
        return [str(warning.message) for warning in caught]


def test_only_what_will_change_in_a_library_is_held_back():
    assert shown("transformers.models.llama") == []
    assert shown("torch") == []
    assert shown("torchlike_plugin") == ["soon"]
    assert shown("my_plugin") == ["soon"]
    assert shown("transformers.models.llama", UserWarning) == ["soon"]


def test_afterwards_they_talk_as_before():
    before = list(warnings.filters)
    with quiet_libraries():
        pass
    assert list(warnings.filters) == before


def test_the_command_line_shows_no_bars_of_others():
    """Even those of libraries that a process imports later, as for quantised weights."""
    program = (
        "import sys; from epi_bench.runs.quiet import hold_back_libraries; hold_back_libraries()\n"
        "import warnings\n"
        f"{WARN.format(kind='FutureWarning', module='transformers.x')}\n"
        f"{WARN.format(kind='FutureWarning', module='my_plugin')}\n"
        "from tqdm import tqdm; from tqdm.auto import tqdm as bar\n"
        "print(list(tqdm([1])) + list(bar([2])))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TQDM", "PYTHONWARNINGS"))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept
    )
    assert done.stdout == "[1, 2]\n"
    assert done.stderr.count("soon") == 1
    assert "it/s" not in done.stderr
