"""Full fine-tuning on one task alone: what other runs are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.identity import run_id
from epi_bench.spec.run_spec import RunSpec, StrategySpec

if TYPE_CHECKING:
    from epi_bench.runs.prepared import PreparedRun


def reference_spec(spec: RunSpec, task: str) -> RunSpec:
    """The single-task reference: full fine-tuning on one task alone with the same budget.

    It is trained once, with seed 0, and shared by all strategies, seeds and streams.
    """
    options = {name: given for name, given in spec.data.options.items() if name == task}
    return spec.model_copy(
        update={
            "strategy": StrategySpec(name="full_sft"),
            "stream": spec.stream.model_copy(
                update={"kind": "sequential", "order": "given", "options": {}}
            ),
            "data": spec.data.model_copy(update={"tasks": (task,), "options": options}),
            "evaluation": spec.evaluation.model_copy(update={"probe_examples": 0}),
            "seed": 0,
        }
    )


def known_references(prepared: PreparedRun, workspace: Workspace) -> dict[str, float] | None:
    """Single-task scores that earlier runs left behind; ``None`` if one of them is missing."""
    scores: dict[str, float] = {}
    for task in prepared.tasks:
        fingerprints = {name: prepared.fingerprints[name] for name in ("model", f"task:{task}")}
        identity = run_id(
            reference_spec(prepared.spec, task), fingerprints, prepared.execution.identity()
        )
        record = workspace.finished_record(identity)
        if record is None or identity == prepared.run_id:
            return None
        score = record.final_scores.get(task)
        if score is None:
            return None
        scores[task] = score
    return scores


def with_references(
    record: RunRecord, references: Mapping[str, float] | None, path: Path
) -> RunRecord:
    """The record with the metrics that single-task references add, saved if they are new."""
    if references is None or record.reference_scores is not None:
        return record
    from epi_bench.runs.recording import add_references

    completed = add_references(record, references)
    save_record(completed, path)
    return completed
