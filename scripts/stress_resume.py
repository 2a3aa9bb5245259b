"""Kill runs at random moments, let them go on, and compare them with runs that nothing disturbed.

    python scripts/stress_resume.py --kills 200 --strategies all

For each strategy one run is left alone. Then the same command is started again and again in a
folder of its own and killed (``kill -9``) several times before it may end. What it leaves must be
what the undisturbed run left: record, predictions, trained model, published board, and nothing
half-written or left over. Exit code 1 if anything differs.

Two kinds of kills: at the n-th call of a function in a part of the program (so that rare moments,
such as the writing of a record, are hit as often as the training), and after a random time. The
numbers come from ``--seed``, which is printed.

A run is a forked copy of this process, which has imported everything: that takes a fifth of the
time of a new one, and is killed as one. Runs on Linux, on the CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PARTS = {
    "loading": ("model/load", "model/chat/", "runs/preparation", "runs/identity", "task/"),
    "training": ("training/loop.py", "training/micro_batches", "model/precision"),
    "strategy": ("strategies/", "strategy/isolation", "strategy/elastic", "isolation/"),
    "Fisher pass": ("strategy/fisher",),
    "evaluation": ("evaluation/",),
    "checkpoint": ("runs/checkpoint_folder", "runs/run_checkpoints", "training/loop_state"),
    "saving the model": ("runs/saving",),
    "record": ("results/record/record_file", "runs/recording", "files.py"),
    "publishing": ("results/leaderboard/", "evaluation/prediction_log"),
    "tables": ("cli/",),
}
"""Parts of the program, told from the files of the code that runs; the first that fits counts."""

ANY_MOMENT = "any moment"
"""A kill after a random time, whatever runs then."""

MINI = ("--tasks", "mini_math,mini_code", "--steps", "3", "--train-examples", "16",
        "--test-examples", "4")  # fmt: skip
"""A run of a few seconds on the embedded suite."""

SOON = {"warmup": 1, "interval": 2, "fisher_samples": 8, "rank": 4}
"""Options with which a strategy acts, and quickly, within a few steps; where it has them."""

MOST_KILLS = 4
"""Kills of one run before it may end."""

PATIENCE = 1800.0
"""Seconds after which a run that is not to be killed counts as hanging."""


@dataclass(frozen=True)
class Trap:
    """Where a run kills itself: at the n-th call in a part of the program; ``None`` never."""

    part: str | None = None
    call: int = 0


@dataclass
class Report:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Read the command line, disturb the runs, print what came of it."""
    options = _arguments()
    given, run_arguments = options
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    _import_everything()
    from epi_bench.plugins.loading import load_plugin_files

    plugins = [Path(path).resolve() for path in given.plugin]
    load_plugin_files(plugins)
    names = _strategies(given.strategies)
    print(f"seed {seed}: {given.kills} kills, {len(names)} strategies", flush=True)
    work = Path(tempfile.mkdtemp(prefix="stress-resume-"))
    command = [*run_arguments, "--checkpoint-every", "1", "--log-predictions"]
    for path in plugins:
        command += ["--plugin", str(path)]
    report = Report()
    stresses = [
        _Stress(name, command, work / name, random.Random(f"{seed} {name}"), report)
        for name in names
    ]
    try:
        while report.kills.total() < given.kills and not all(each.is_over for each in stresses):
            for each in stresses:
                each.make_a_run(given.kills - report.kills.total())
    except KeyboardInterrupt:
        print("stopped")
    if not report.problems:
        shutil.rmtree(work, ignore_errors=True)
    _print_report(report, seed, work)
    return 1 if report.problems or report.kills.total() < given.kills else 0


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="What stands after -- goes to epi-bench run, in place of a short run of the "
        "embedded suite.",
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--strategies", default="all", help="names with commas, or all")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE")
    parser.add_argument("--seed", type=int, help="drawn if left out")
    own, _, passed_on = _split(sys.argv[1:])
    return parser.parse_args(own), passed_on or list(MINI)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], "--", arguments[at + 1 :]


def _import_everything() -> None:
    """So that a forked run need not: nothing is computed here, and no thread started."""
    import peft
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama

    import epi_bench.cli.app  # noqa: F401

    for part in ("training", "evaluation", "model", "isolation", "results", "task", "cli"):
        package = importlib.import_module(f"epi_bench.{part}")
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    for name in ("launch", "experiment", "stream_training", "recording", "saving", "instruments"):
        importlib.import_module(f"epi_bench.runs.{name}")
    del peft, transformers


def _strategies(given: str) -> list[str]:
    from epi_bench.strategy.strategy import STRATEGIES

    if given == "all":
        return list(STRATEGIES.names())
    names = given.split(",")
    for name in names:
        STRATEGIES.get(name)
    return names


class _Stress:
    """One strategy's runs.

    Args:
        name: Of the strategy.
        command: Of the run, without the strategy.
        work: Folder for everything.
        random: Decides where a run is killed.
        report: Takes what happens.

    Attributes:
        is_over: Whether something differed, so that there is no point in going on.
    """

    def __init__(
        self, name: str, command: Sequence[str], work: Path, random: random.Random, report: Report
    ) -> None:
        from epi_bench.plugins.options import options_of
        from epi_bench.strategy.strategy import STRATEGIES

        known = options_of(STRATEGIES.get(name))
        self.name = name
        self.command = ["run", "--strategy", name, *command]
        for option, value in SOON.items():
            if option in known:
                self.command += ["--set", f"{name}.{option}={value}"]
        self.work = work
        self.random = random
        self.report = report
        self.calls: Counter[str] = Counter()
        self.duration = 0.0
        self.is_over = False

    def make_a_run(self, kills: int) -> None:
        """Disturb one run; the first time, leave one alone before.

        Args:
            kills: At most so many.
        """
        if self.is_over or kills <= 0:
            return
        if not self.calls:
            started = time.monotonic()
            self.work.mkdir(parents=True)
            self.calls = self._count_calls(self.work / "alone")
            self.duration = time.monotonic() - started
        if self.calls:
            planned = min(self.random.randint(1, MOST_KILLS), kills)
            self._disturb(self.work / "disturbed", planned, self.calls, self.duration)
            print(
                f"{self.name}: {self.report.kills.total()} kills so far, "
                f"{self.report.compared} runs compared, {len(self.report.problems)} differ",
                flush=True,
            )

    def _count_calls(self, out: Path) -> Counter[str]:
        """The undisturbed run; returns the calls in each part of the program."""
        counts = self.work / "calls.json"
        code = self._start(out, Trap(), counts, None)
        if code != 0:
            self._note(f"the undisturbed run ended with {code}", out)
            return Counter()
        return Counter(json.loads(counts.read_text(encoding="utf-8")))

    def _disturb(self, out: Path, kills: int, calls: Counter[str], duration: float) -> None:
        """One run, killed up to so many times before it may end."""
        parts: list[str] = []
        for _ in range(kills):
            part = self.random.choice([*calls, ANY_MOMENT])
            if part == ANY_MOMENT:
                code = self._start(out, Trap(), None, self.random.uniform(0, duration))
            else:
                trap = Trap(part, self.random.randint(1, calls[part]))
                code = self._start(out, trap, None, None)
            if code == 0:
                break  # it went on behind that moment, and has ended
            if code != -signal.SIGKILL:
                self._note(f"a run ended with {code} after kills in {parts}", out)
                return
            parts.append(part)
            self.report.kills[part] += 1
        else:
            code = self._start(out, Trap(), None, None)
            if code != 0:
                self._note(f"the run ended with {code} after kills in {parts}", out)
                return
        self.report.resumed += _times_resumed(out)
        self.report.compared += 1
        differences = list(_differences(self.work / "alone", out))
        if differences:
            self._note(f"after kills in {parts}: {'; '.join(differences)}", out)
        else:
            shutil.rmtree(out)

    def _note(self, problem: str, out: Path) -> None:
        self.is_over = True
        log = (self.work / f"{out.name}.log").read_text(encoding="utf-8", errors="replace")
        self.report.problems.append(f"{self.name}: {problem}\n{log[-1500:]}")
        print(self.report.problems[-1], flush=True)

    def _start(self, out: Path, trap: Trap, counts: Path | None, seconds: float | None) -> int:
        """Start the run in a process of its own; returns its exit code, negative for a signal.

        Args:
            out: Its folder.
            trap: Where it kills itself.
            counts: Gets the number of calls in each part, where that is asked for.
            seconds: After which it is killed.
        """
        _let_time_pass(out)
        command = [*self.command, "--out", str(out), "--save-model", str(out / "model")]
        log = self.work / f"{out.name}.log"
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            _be_the_run(command, log, trap, counts)
        limit = time.monotonic() + (PATIENCE if seconds is None else seconds)
        while True:
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= limit:
                os.kill(process, signal.SIGKILL)
                limit = float("inf")
            time.sleep(0.002)


def _let_time_pass(out: Path) -> None:
    """Make temporary files look as if they had been left behind yesterday."""
    yesterday = time.time() - 86_400
    for path in out.rglob(".*.tmp"):
        os.utime(path, (yesterday, yesterday))


def _be_the_run(command: list[str], log: Path, trap: Trap, counts: Path | None) -> NoReturn:
    """In the forked process: make the run, and end."""
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from epi_bench.cli.app import main as epi_bench

        sys.argv = ["epi-bench", *command]
        seen: Counter[str] = Counter()
        if trap.part is not None or counts is not None:
            sys.setprofile(_counter(trap, seen))
        try:
            epi_bench()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.setprofile(None)
        if counts is not None:
            counts.write_text(json.dumps(seen), encoding="utf-8")
    except BaseException:  # noqa: BLE001  (this process is forked: nothing may run on in it)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _counter(trap: Trap, seen: Counter[str]) -> Callable[[FrameType, str, Any], None]:
    """What Python calls at each call and return of a function; kills the process at the trap."""
    import epi_bench.strategies

    package = Path(importlib.import_module("epi_bench").__file__ or "").parent
    strategies = Path(next(iter(epi_bench.strategies.__path__)))
    parts: dict[str, str | None] = {}

    def part_of(file: str) -> str | None:
        path = Path(file)
        if path.is_relative_to(package):
            name = path.relative_to(package).as_posix()
        elif path.is_relative_to(strategies):
            name = "strategies/"
        else:
            return None
        found = (part for part, starts in PARTS.items() if name.startswith(starts))
        return next(found, None)

    def count(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        part = parts[file] if file in parts else parts.setdefault(file, part_of(file))
        if part is None:
            return
        seen[part] += 1
        if part == trap.part and seen[part] == trap.call:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def _record_paths(out: Path) -> list[Path]:
    return sorted(out.glob("runs/*/record.json"))


def _times_resumed(out: Path) -> int:
    from epi_bench.results.record.record_file import load_record

    return sum(load_record(path).environment.resumed for path in _record_paths(out))


def _differences(alone: Path, disturbed: Path) -> Iterator[str]:
    """What a disturbed run left that differs from what the undisturbed one left."""
    first, second = ({p.relative_to(out): p for p in _files(out)} for out in (alone, disturbed))
    for path in sorted(first.keys() ^ second.keys()):
        yield f"{path} is {'missing' if path in first else 'left over'}"
    if not _record_paths(alone):
        yield "there is no record"
    for path in sorted(first.keys() & second.keys()):
        if path.name == "events.jsonl":
            continue
        if _content(first[path]) != _content(second[path]):
            yield f"{path} differs"


def _files(out: Path) -> list[Path]:
    locks = (".lock", "lock.json")
    return [path for path in out.rglob("*") if path.is_file() and path.name not in locks]


def _content(path: Path) -> object:
    """What may not depend on an interruption; all but times and circumstances."""
    from epi_bench.results.record.record_file import comparable, load_record

    if path.name == "record.json" or (path.suffix == ".json" and "results" in path.parts):
        record = load_record(path)
        cost = record.cost.model_dump() if record.cost else {}
        kept = [name for name in cost if "second" not in name and "peak" not in name]
        return comparable(record), {name: cost[name] for name in kept}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _print_report(report: Report, seed: int, work: Path) -> None:
    for part, count in sorted(report.kills.items(), key=lambda item: -item[1]):
        print(f"{count:5d}  {part}")
    print(
        f"seed {seed}: {report.kills.total()} kills, resumed {report.resumed} times, "
        f"{report.compared} runs compared, {len(report.problems)} differences"
    )
    if report.problems:
        print(f"what they left is in {work}")


if __name__ == "__main__":
    sys.exit(main())
