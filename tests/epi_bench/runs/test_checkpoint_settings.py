"""When checkpoints are written, as users say it."""

from __future__ import annotations

import pytest

from epi_bench import UserError
from epi_bench.runs.checkpoint_settings import CheckpointSettings, checkpoint_settings


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("200", 200, 0),
        ("30s", None, 30),
        ("5m", None, 300),
        (" 1.5h ", None, 5400),
        ("0", None, 0),
        ("0m", None, 0),
    ],
)
def test_steps_or_a_time(text, steps, seconds):
    found = checkpoint_settings(text, 2)
    assert found == CheckpointSettings(steps, seconds, 2)
    assert found.is_on == (text not in ("0", "0m"))


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 m", "5d", "1.5", "five", "1e3", "9" * 5000])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="neither steps nor a time: write 200") as error:
        checkpoint_settings(text)
    assert error.value.settings == ("checkpoint_every",)


def test_fewer_than_none_cannot_be_kept():
    with pytest.raises(UserError, match="keep_checkpoints=-1 must be at least 0"):
        checkpoint_settings("5m", -1)
