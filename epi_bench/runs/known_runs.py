"""Runs that were made before, found without what training needs: no tokenizer, no encoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish
from epi_bench.runs.examples import (
    EVAL_SPLITS,
    permitted,
    published_examples,
    select_examples,
)
from epi_bench.runs.given_text import given_text
from epi_bench.runs.identity import plugin_fingerprints, run_id, task_fingerprint
from epi_bench.runs.launch import known_record
from epi_bench.runs.references import known_references
from epi_bench.runs.reproducibility import current_execution
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.spec.run_spec import RunSpec
from epi_bench.strategy.strategy import create_strategy
from epi_bench.task.rows.source import SPLITS
from epi_bench.task.task import changed_task_options, create_task

if TYPE_CHECKING:
    from epi_bench.runs.reproducibility import Execution


@dataclass
class KnownRuns:
    """Finds the records of runs that were made before.

    Models and tasks are read once for all runs, so a further run takes milliseconds. What it says
    of a run's identity is what :func:`epi_bench.runs.preparation.prepare_run` says.

    Args:
        request: How the runs are asked for.
    """

    request: RunRequest
    _hashes: dict[str, str] = field(default_factory=dict)

    def find(self, spec: RunSpec) -> RunOutcome | None:
        """The outcome of a run that needs not be made; ``None`` for one that may have to be.

        Args:
            spec: The run. One that cannot be made is ``None`` too.
        """
        if self.request.force or not self._has_any():
            return None
        try:
            return self._find(spec)
        except (UserError, OSError):  # whoever makes the run meets the same error, and tells it
            return None

    def _find(self, spec: RunSpec) -> RunOutcome | None:
        resolved, fingerprints, execution = self._identify(spec)
        identity = run_id(resolved, fingerprints, execution.identity())
        workspace = self.request.workspace
        references = known_references(resolved, identity, fingerprints, execution, workspace)
        record = known_record(identity, self.request, references)
        if record is None:
            return None
        if record.status == "finished":
            if self.request.references and record.reference_scores is None:
                return None
            if self.request.published:
                publish(record, workspace.board)
        return RunOutcome(spec, record, workspace.record_path(identity), skipped=True)

    def _has_any(self) -> bool:
        """Whether there is anything to be found; reading the data of all tasks takes time."""
        return any(self.request.workspace.out.glob("runs/*/record.json"))

    def _identify(self, spec: RunSpec) -> tuple[RunSpec, dict[str, str], Execution]:
        """The specification with its threads, content hashes of what it names, the process."""
        execution = current_execution()
        spec = execution.resolve(spec)
        plugins = plugin_fingerprints(spec)
        hashes = {"model": self._model_hash(spec)}
        for name in sorted(spec.data.scored_tasks):
            hashes[f"task:{name}"] = self._task_hash(name, spec, plugins.get(f"task:{name}"))
        hashes |= {name: code for name, code in plugins.items() if not name.startswith("task:")}
        hashes |= {f"text:{name}": value for name, value in self._text_hashes(spec).items()}
        return spec, hashes, execution

    def _text_hashes(self, spec: RunSpec) -> dict[str, str]:
        """Of the files that the strategy and ``data.general_text`` name."""
        from epi_bench.model.base_text import read_base_text

        strategy = create_strategy(spec.strategy.name, spec.strategy.options)
        protected = read_base_text(strategy.protect_base)
        given = given_text(spec.data, self.request.data_dir)
        return {
            **({"protect_base": protected[1]} if protected else {}),
            **({"general_text": given.fingerprint} if given else {}),
        }

    def _model_hash(self, spec: RunSpec) -> str:
        from epi_bench.model.location import locate_model

        key = spec.model.model_dump_json()
        if key not in self._hashes:
            self._hashes[key] = locate_model(spec.model).fingerprint
        return self._hashes[key]

    def _task_hash(self, name: str, spec: RunSpec, code: str | None) -> str:
        options = spec.data.options.get(name)
        splits = SPLITS if name in spec.data.tasks else EVAL_SPLITS
        counts = {"train": spec.data.train_examples, "test": spec.data.test_examples}
        key = repr((name, options, [(split, counts[split]) for split in splits]))
        if key not in self._hashes:
            task = create_task(name, self.request.data_dir, options)
            task = permitted(task, self.request.allow_code_execution)
            published = published_examples(task, splits)
            examples = [
                example
                for split in splits
                for example in select_examples(task, split, counts[split], published[split])
            ]
            changed = changed_task_options(spec.data.options)
            self._hashes[key] = task_fingerprint(task, examples, code, changed.get(name))
        return self._hashes[key]
