"""Full fine-tuning on one task alone: what other runs are measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.identity import run_id
from epi_bench.runs.reproducibility import Execution
from epi_bench.spec.run_spec import AdapterSpec, RunSpec, StrategySpec
from epi_bench.spec.streams import order_tasks


def reference_spec(spec: RunSpec, task: str) -> RunSpec:
    """The single-task reference: full fine-tuning on one task alone with the same budget.

    It is trained once, with seed 0, and shared by all strategies, seeds and streams.
    """
    options = {name: given for name, given in spec.data.options.items() if name == task}
    return spec.model_copy(
        update={
            "strategy": StrategySpec(name="full_sft"),
            "adapter": AdapterSpec(),
            "stream": spec.stream.model_copy(
                update={"kind": "sequential", "order": "given", "options": {}}
            ),
            "data": spec.data.model_copy(
                update={
                    "tasks": (task,),
                    "eval_tasks": (),
                    "general_text": None,
                    "options": options,
                }
            ),
            "evaluation": spec.evaluation.model_copy(
                update={"probe_examples": 0, "wise_ft_curve": False}
            ),
            "seed": 0,
        }
    )


def known_references(
    spec: RunSpec,
    run: str,
    fingerprints: Mapping[str, str],
    execution: Execution,
    workspace: Workspace,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, float] | None:
    """Single-task scores that earlier runs left behind; ``None`` if one of them is missing.

    Args:
        spec: The run that they are for, its threads written out.
        run: Its identity.
        fingerprints: Content hashes of its model and tasks.
        execution: How this process makes runs.
        workspace: Where the references are.
        warn: Told of a record that is there but cannot be used; it stops no other run.
    """
    scores: dict[str, float] = {}
    for task in order_tasks(spec.data.tasks, spec.stream.order, spec.seed):
        named = {name: fingerprints[name] for name in ("model", f"task:{task}")}
        identity = run_id(reference_spec(spec, task), named, execution.identity())
        try:
            record = workspace.finished_record(identity)
        except UserError as error:
            warn(
                f"{error}; the single-task reference of {task!r} is left out until it is trained "
                "again with the argument references"
            )
            return None
        if record is None or identity == run:
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
