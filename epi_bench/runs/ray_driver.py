"""The process that talks to Ray: ``python -m epi_bench.runs.ray_driver``.

Ray takes over the signals, the environment and the standard output of the process that it is
started from, so that is not the process that asks for the runs. As in :mod:`child`, orders come as
lines of JSON on the standard input and messages go out as lines; the input's end ends everything.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from epi_bench.errors import UserError, describe_error
from epi_bench.runs.ray_resources import RaySettings, check_resources, room
from epi_bench.runs.ray_tasks import RayTasks, Task

OBJECT_STORE_BYTES = 80 * 2**20
"""Of a Ray of our own: results go through files. By default Ray takes a third of the memory."""

FOLDER_PREFIX = "epi-ray-"

LONGEST_TEMPORARY_FOLDER = 30
"""Characters: Ray adds some 70, and the path of a socket may have 104."""


def main() -> int:
    """Read settings and orders, have them made, write what becomes of them."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray and its machines say goes to the error output

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    settings = RaySettings(**json.loads(sys.stdin.readline()))
    inbox: Queue[Task | None] = Queue()
    marks: set[Path] = set()
    Thread(target=_read_tasks, args=(inbox, marks), daemon=True).start()
    folder = _own_folder()
    try:
        _make_runs(settings, folder, inbox, say)
    except UserError as error:
        say({"refused": str(error), "settings": error.settings})
    except BrokenPipeError:
        return 1  # the process that asked has gone
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for mark in marks:
            mark.unlink(missing_ok=True)
    return 0


def _make_runs(
    settings: RaySettings,
    folder: str,
    inbox: Queue[Task | None],
    say: Callable[[dict[str, Any]], None],
) -> None:
    _set_variables(settings)
    import ray

    try:
        _start_ray(settings, folder)
        signal.signal(signal.SIGTERM, lambda *_: inbox.put(None))  # over that of Ray
        warning = check_resources(settings)
        if warning:
            say({"warning": warning})
        say({"room": room(settings)})
        RayTasks(settings, say).serve(inbox)
    finally:
        ray.shutdown()


def _set_variables(settings: RaySettings) -> None:
    """Those that Ray reads when it is imported; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or it writes a token for clusters


def _start_ray(settings: RaySettings, folder: str) -> None:
    """Connect to a cluster, or start a Ray on this machine alone.

    Args:
        settings: Say which.
        folder: For the files of a Ray of our own.

    Raises:
        UserError: If there is no such cluster.
    """
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if settings.address is None:
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **common,
            )
        except Exception as error:  # Ray gives its parts thirty seconds, and raises just this
            raise UserError(
                f"Ray did not start here ({describe_error(error)}): try again, or use jobs",
                setting="jobs",
            ) from error
        return
    try:
        ray.init(address=settings.address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at address {settings.address!r}: start one with `ray start "
            f"--head`, or leave the address out ({describe_error(error)})",
            setting="address",
        ) from error


def _read_tasks(inbox: Queue[Task | None], marks: set[Path]) -> None:
    """Read what is to be made, and note the files that were left for it to be found."""
    for line in sys.stdin:
        content = json.loads(line)
        mark = json.loads(content["surroundings"])["mark"]
        if mark:
            marks.add(Path(mark))
        inbox.put(Task(**{**content, "order": content["order"].encode()}))
    inbox.put(None)


def _own_folder() -> str:
    """A folder for the files of a Ray of our own; those that killed processes have left go."""
    usual = Path(tempfile.gettempdir())
    short = Path("/tmp")  # sockets with long names must have room
    parent = short if len(str(usual)) > LONGEST_TEMPORARY_FOLDER and short.is_dir() else usual
    for left in parent.glob(f"{FOLDER_PREFIX}*"):
        if not _is_alive(left.name.removeprefix(FOLDER_PREFIX).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=parent)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True  # another user's process; another program's folder
    return True


if __name__ == "__main__":
    sys.exit(main())
