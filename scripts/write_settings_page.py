"""Write the reference page of all settings; run it after every change of a setting's field."""

from __future__ import annotations

from pathlib import Path

from epi_bench.cli.settings import settings_page
from epi_bench.files import write_atomically

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/settings.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    write_atomically(PAGE, settings_page())
