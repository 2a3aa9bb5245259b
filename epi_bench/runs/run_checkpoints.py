"""The checkpoints of a run under way: when one is due, what is in it, and which one fits."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from epi_bench.errors import describe_error
from epi_bench.runs.checkpoint_folder import Checkpoint, CheckpointError, CheckpointFolder
from epi_bench.runs.checkpoint_settings import OFF, CheckpointSettings
from epi_bench.runs.measured_state import measurements_to_json, take_up_measurements

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.runs.measurements import Measurements
    from epi_bench.runs.observer import RunObserver
    from epi_bench.runs.prepared import PreparedRun
    from epi_bench.training.loop import TrainingLoop
    from epi_bench.training.loop_state import LoopState

AT_LEAST = 10.0
"""Where time says when checkpoints are due: seconds of a run before the first one, and between two
while the model is scored."""

WORTH_A_LINE = 5.0
"""Seconds spent on checkpoints above which the user is told at the end."""

RANDOM, FIRST_RANDOM = "random", "random_before_loop"
"""Groups of tensors with the random states now, and with those before the model was prepared."""


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that fits the run.

    Attributes:
        path: Its folder.
        checkpoint: What is in it.
    """

    path: Path
    checkpoint: Checkpoint

    @property
    def step(self) -> int:
        """Optimizer steps that have been made."""
        return self.checkpoint.step

    @property
    def loop(self) -> LoopState | None:
        """State of the training loop; ``None`` before there was one."""
        from epi_bench.training.loop_state import LoopState

        values = self.checkpoint.state["loop"]
        return LoopState(values, self.checkpoint.tensors) if values else None

    @property
    def announcement(self) -> str:
        """Where the run goes on, as a line for the user."""
        saved = datetime.fromisoformat(self.checkpoint.state["saved_at"]).astimezone()
        day = "" if saved.date() == datetime.now().astimezone().date() else f"{saved:%Y-%m-%d} "
        return f"resuming {self.checkpoint.state['where']} (checkpoint of {day}{saved:%H:%M})"


class RunCheckpoints:
    """Saves what a run needs to go on, and finds what an earlier process has saved.

    A checkpoint is *full* where it holds the state of the training loop; while the model is scored
    only the measurements change, and a *light* one takes over the files of the last full one.

    Args:
        folder: Of this run.
        settings: When to save.
        prepared: The run.
        measurements: Are saved with it.
        observer: Hears what is saved, and why something is not.

    Attributes:
        done: What the run need not do again, by keys such as ``score base``.
        step: Optimizer steps of the newest checkpoint, ``None`` if there is none.
        refusals: One line for each checkpoint that :meth:`points` passed over.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        settings: CheckpointSettings,
        prepared: PreparedRun,
        measurements: Measurements,
        observer: RunObserver,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.prepared = prepared
        self.measurements = measurements
        self.observer = observer
        self.done: set[str] = set()
        self.step: int | None = None
        self.refusals: list[str] = []
        self.loop: TrainingLoop | None = None
        self.first_random: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None
        self._newest: Path | None = None
        self._loop_values: Mapping[str, Any] | None = None
        self._mark: object = None
        self._began = self._saved_at = monotonic()
        self._seconds = 0.0
        self._has_failed = False
        self._has_news = False
        self._least = min(AT_LEAST, settings.every_seconds)

    @property
    def is_on(self) -> bool:
        """Whether anything is saved."""
        return self.settings.is_on

    def finish(self, key: str) -> None:
        """Note that something need not be done again."""
        self.done.add(key)
        self._has_news = True

    def points(self) -> Iterator[ResumePoint]:
        """The checkpoints that fit this run, the newest first."""
        told = 0
        for path, found in self.folder.load_all():
            self.refusals += self.folder.problems[told:]
            told = len(self.folder.problems)
            reason = _misfit(found.state.get("identity"), self._identity)
            if reason is None:
                yield ResumePoint(path, found)
            else:
                self.refusals.append(f"checkpoint {path} is not used: {reason}")
        self.refusals += self.folder.problems[told:]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        judge = self.measurements.judge
        return {**run_identity(self.prepared), "judge": list(judge) if judge else None}

    def take_up(self, point: ResumePoint) -> None:
        """Let the measurements and the list of what is done go on from a checkpoint."""
        state = point.checkpoint.state
        take_up_measurements(self.measurements, state["measured"])
        if self.measurements.judge is None:  # a judge was asked then, and is not now
            self.measurements.judged.clear()
        self.measurements.resumed = state["resumed"] + 1
        self._has_news = True
        self._began -= self._least  # it is no short run
        self.done = set(state["done"])
        self.step = point.step
        self._newest = point.path
        self._loop_values = state["loop"]
        first = state["random_before_loop"]
        if first is not None:
            self.first_random = first, point.checkpoint.tensors[FIRST_RANDOM]

    def goes_on_with(self, loop: TrainingLoop) -> None:
        """The loop has been started, and has the state of the newest checkpoint if there is one."""
        self.loop = loop
        if self._loop_values is not None:
            self._mark = _mark(loop)

    def after_step(self, *, stopping: bool) -> None:
        """Save if it is due; called when the loop is at rest.

        Args:
            stopping: Whether the run is about to end here.
        """
        loop = self.loop
        if loop is None or not self.is_on or _mark(loop) == self._mark:
            return
        if stopping:
            self.save_full()
        elif self.settings.every_steps is not None:
            if loop.steps_done % self.settings.every_steps == 0:
                self.save_full()
        elif self._age() >= self.settings.every_seconds:
            self.save_full()

    def before_hook(self) -> None:
        """Save before a hook that may take long, so that an interruption there costs little."""
        if self.settings.every_steps is None and self._age() < 3 * self._least:
            return
        self.at_stage()

    def at_stage(self) -> None:
        """Save where a part of the run is complete and the loop at rest, unless it just was."""
        is_short = self.settings.every_steps is None and monotonic() - self._began < self._least
        if self.is_on and not is_short and not self._is_saved():
            self.save_full()

    def after_measurement(self) -> None:
        """Save that something was measured, with the files of the last full checkpoint."""
        self._has_news = True
        if self.is_on and self._is_old_enough():
            self.save_light()

    def save_full(self) -> None:
        """Save the measurements and the loop's state as it is now."""
        loop = self.loop
        try:
            state = loop.state_dict() if loop else None
        except Exception as error:  # noqa: BLE001  (a plugin's code)
            self.observer.warning(f"no checkpoints are written: {describe_error(error)}")
            self.settings = OFF
            return
        tensors = dict(state.tensors) if state else {}
        if self._save(state.values if state else None, tensors, None):
            self._mark = _mark(loop) if loop else None

    def save_light(self) -> None:
        """Save the measurements; does nothing where the loop has gone on since the last one."""
        if self.loop is None:
            self.save_full()
        elif self._is_saved() and self._newest is not None:
            self._save(self._loop_values, {}, self._newest)

    def on_interruption(self) -> None:
        """Save what was measured since, where no more than that is to be saved."""
        if self.is_on and self._has_news:
            self.save_light()

    def hint(self, *, forced: bool) -> str:
        """How to go on after an interruption, as the end of a sentence.

        Args:
            forced: Whether the run was to begin anew.
        """
        if self.step is None:
            return "run the same command again to start from the beginning"
        without = " with force off" if forced else ""
        return f"run the same command again{without} to go on from step {self.step}"

    def end(self, *, finished: bool) -> None:
        """The run has its record: without checkpoints, if it went through."""
        if self._seconds >= WORTH_A_LINE:
            self.observer.note(
                f"checkpoints took {self._seconds:.0f} seconds "
                f"({_size(self.folder.bytes_on_disk())} on the disk)"
            )
        if finished:
            self.folder.remove()

    def _is_saved(self) -> bool:
        """Whether the newest checkpoint has the loop's present state."""
        return self.loop is not None and self._mark == _mark(self.loop)

    def _age(self) -> float:
        return monotonic() - self._saved_at

    def _is_old_enough(self) -> bool:
        return self.settings.every_steps is not None or self._age() >= self._least

    def _save(
        self,
        loop_values: Mapping[str, Any] | None,
        tensors: dict[str, Mapping[str, Tensor]],
        like: Path | None,
    ) -> bool:
        """Write a checkpoint; a failure is a warning, once, and the run goes on without."""
        from epi_bench.results.record.memory import peak_memory_bytes
        from epi_bench.training.loop_state import random_state

        started = monotonic()
        measured = self.measurements
        measured.peak_memory_before = max(
            measured.peak_memory_before, peak_memory_bytes(measured.device) or 0
        )
        random_values, tensors[RANDOM] = random_state()
        if loop_values is not None:
            loop_values = {**loop_values, "random": random_values}
        if self.first_random is not None:
            tensors[FIRST_RANDOM] = self.first_random[1]
        step = self.loop.steps_done if self.loop else 0
        state = {
            "identity": self._identity,
            "saved_at": datetime.now(UTC).isoformat(),
            "where": self._where(),
            "resumed": measured.resumed,
            "done": sorted(self.done),
            "measured": measurements_to_json(measured),
            "random": random_values,
            "random_before_loop": self.first_random and self.first_random[0],
            "loop": loop_values,
        }
        try:
            path = self.folder.save(Checkpoint(step, state, tensors), like)
        except CheckpointError as error:
            if not self._has_failed:
                self.observer.warning(f"{error}; the run goes on, and tries again later")
            self._has_failed = True
            self._saved_at = monotonic()
            return False
        self._newest, self._loop_values, self.step = path, loop_values, step
        self._has_failed = self._has_news = False
        self._saved_at = monotonic()
        seconds = self._saved_at - started
        self._seconds += seconds
        self.observer.checkpoint_saved(step, _bytes_of(path), seconds)
        return True

    def _where(self) -> str:
        """Where the run goes on, as the end of "resuming ..."."""
        loop, rows = self.loop, self.measurements.rows
        if loop is None:
            return "before training" if rows else "at the scoring of the base model"
        index, steps = loop.place
        experiences = self.prepared.experiences
        if index is not None:
            name = experiences[index].name
            within = f" ({steps} of {experiences[index].steps} there)"
            return f"at step {loop.steps_done} of experience {name!r}{within}"
        trained = sum(f"train {e.index}" in self.done for e in experiences)
        if not trained:
            return "before training"
        return f"at step {loop.steps_done}, after experience {experiences[trained - 1].name!r}"


def _mark(loop: TrainingLoop) -> object:
    """Changes whenever the loop's state does."""
    return loop.steps_done, loop.place


def run_identity(prepared: PreparedRun) -> dict[str, Any]:
    """What two processes must have in common so that one may go on where the other stopped.

    Args:
        prepared: The run; its id covers its settings, model, data and plugins.
    """
    import torch

    from epi_bench.results.record.environment import package_versions

    execution = prepared.execution
    return {
        "run": prepared.run_id,
        **package_versions(),
        "python": platform.python_version(),
        "the code of epi-bench": _source_hash(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if execution.device == "cuda" else execution.device,
        "processes": execution.processes,
    }


def _misfit(found: object, expected: Mapping[str, Any]) -> str | None:
    """Why a checkpoint is not of this run, or ``None`` if it is."""
    if not isinstance(found, dict):
        return "it does not say which run it is of"
    differing = [name for name in expected if found.get(name) != expected[name]]
    if expected["judge"] is None and differing == ["judge"]:
        return None
    if not differing:
        return None
    name = differing[0]
    if name == "the code of epi-bench":
        return "the code of epi-bench has changed since"
    return f"it was made with {name} {found.get(name)}, here is {expected[name]}"


@lru_cache(maxsize=1)
def _source_hash() -> str:
    """SHA-256 of the package's code, the built-in strategies and tasks included."""
    found = hashlib.sha256()
    folders = [str(Path(__file__).parents[1])]
    for package in ("epi_bench.strategies", "epi_bench.tasks"):
        spec = find_spec(package)
        folders += (spec.submodule_search_locations or []) if spec else []
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{path.relative_to(folder)} ".encode() + path.read_bytes())
    return found.hexdigest()


def _bytes_of(folder: Path) -> int:
    """What a checkpoint takes on the disk; files that it shares with another one count for it."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
