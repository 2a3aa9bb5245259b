"""Run records made by hand, tasks of lm-evaluation-harness, and a witness of protected weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from epi_bench.results.leaderboard import publish, rank_track
from epi_bench.results.metrics.derived import derive_metrics, retention_metrics
from epi_bench.results.record.circumstances import ExperienceRecord
from epi_bench.results.record.consistency import expected_run_id
from epi_bench.results.record.items import pack_items
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.scores import Diagnostics, GradedProtection, StiffnessShare
from epi_bench.results.record.track import make_track, track_facts
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.streams import complete_stream_options
from epi_bench.testing import Witness

DEFAULTS = {"ratio": 0.5, "interval": 20}
"""Hyperparameters of the synthetic strategies."""


def _make_run(
    strategy: str = "epi",
    scores: tuple[float, float] = (60.0, 80.0),
    *,
    options: dict | None = None,
    seed: int = 0,
    order: tuple[str, ...] = ("a", "b"),
    references: tuple[float, float] | None = None,
    training: dict | None = None,
    stream: str = "sequential",
    dirty: bool = False,
    source: str = "built-in",
    plugin: str | None = None,
    seconds: float = 10.0,
    kept: float | None = None,
    **changes,
) -> RunRecord:
    """A finished run on two tasks: learned at 70 and 80, with ``scores`` at the end.

    With ``kept`` there are two tasks that it never trains: c, which the base model does at 50 and
    the finished one at ``kept``, and d, which stays at 40; and it ends 0.25 nats from the base.
    """
    options = options or {}
    spec = complete_spec(
        {
            "data": {"tasks": ["a", "b"], "eval_tasks": ["c", "d"] if kept is not None else []},
            "strategy": {"name": strategy, "options": options},
            "training": training or {},
            "stream": {"kind": stream},
            "seed": seed,
        }
    )
    protocols = {"a": ("generate", "exact_match", 1), "b": ("choice", "acc", 1)}
    fingerprints = {"model": "m1", "tasks": {"a": "f1", "b": "f2"}, "chat_template": "c"}
    untrained = divergence = None
    if kept is not None:
        protocols |= {"c": ("choice", "acc", 1), "d": ("generate", "exact_match", 1)}
        fingerprints["tasks"] |= {"c": "f3", "d": "f4"}
        untrained = {
            "rows": ["base", *order],
            "columns": [{"task": name, "metric": protocols[name][1]} for name in ("c", "d")],
            "values": [[50.0, 40.0], [45.0, 41.0], [float(kept), 40.0]],
            "n": [20, 10],
            "standard_errors": [[1.0, 2.0]] * 3,
            "item_scores": {"d": pack_items({str(i): 100.0 if i < 4 else 0.0 for i in range(10)})},
        }
    values = [[0.0, 25.0], [70.0, 20.0], [float(score) for score in scores]]
    learned_at = [1, 2] if stream == "sequential" else [None, None]
    metrics = derive_metrics(values, learned_at, references)
    if untrained is not None:
        points = zip(order, (0.125, 0.25), strict=True)
        divergence = {
            "examples": 32,
            "top": 64,
            "points": [{"row": r, "tasks": [r], "nats": kl, "tokens": 9} for r, kl in points],
        }
        metrics |= {**retention_metrics(untrained["values"]), "kl_to_base": 0.25}
    content = {
        "run_id": "unknown",
        "status": "finished",
        "spec": spec,
        "strategy": {
            "name": strategy,
            "hyperparameters": {**DEFAULTS, **options},
            "source": source,
        },
        "track": make_track(
            track_facts(
                spec,
                fingerprints["model"],
                fingerprints["tasks"],
                protocols,
                complete_stream_options(stream, {}),
            )
        ),
        "task_order": order,
        "score_matrix": {
            "rows": ["base", *order],
            "columns": [
                {"task": task, "metric": protocols[task][1], "learned_at": row}
                for task, row in zip(order, learned_at, strict=True)
            ],
            "values": values,
            "n": [30, 40],
            "standard_errors": [[1.0, 2.0]] * 3,
        },
        "eval_scores": untrained,
        "kl_to_base": divergence,
        "metrics": metrics,
        "reference_scores": dict(zip(order, references, strict=True)) if references else None,
        "cost": {
            "training_seconds": seconds,
            "evaluation_seconds": 2.0,
            "total_seconds": seconds + 3,
            "tokens_trained": 1000,
            "extra_state_bytes": 3 * 2**20,
            "trainable_parameters": 10,
            "total_parameters": 10,
        },
        "fingerprints": {**fingerprints, "plugin": plugin},
        "environment": {
            "packages": {"torch": "2"},
            "python": "3.11",
            "platform": "Linux",
            "processor": "p",
            "device": "cpu",
            "threads": 1,
            "git_dirty": dirty,
            "deterministic": True,
            "started_at": "2026-01-01T00:00:00+00:00",
        },
    }
    record = RunRecord.model_validate({**content, **changes})
    if "run_id" in changes:
        return record
    return record.model_copy(update={"run_id": expected_run_id(record)})


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunRecord]:
    """Makes finished runs; see ``_make_run``."""
    return _make_run


@pytest.fixture
def board_runs(make_run):
    """Runs of one track: three of epi, two of ewc, one of a strategy with an option."""
    good = [make_run("epi", (60 + i, 80), seed=i, references=(75, 85)) for i in range(3)]
    bad = [make_run("ewc", (20 + 2 * i, 80), seed=i, seconds=5.0) for i in range(2)]
    return [*good, *bad, make_run("wise", (5, 5), options={"share": "a|b"}, dirty=True)]


@pytest.fixture
def ranking(board_runs):
    """Their ranking by average accuracy."""
    return rank_track(board_runs)


@pytest.fixture
def board(board_runs, make_run, tmp_path):
    """A folder of published records: that track, and another one with a single run."""
    for run in [*board_runs, make_run(stream="mixed")]:
        publish(run, tmp_path)
    return tmp_path


MASK_STATISTICS = (
    Diagnostics(step=10, values={}),
    Diagnostics(
        step=20,
        values={
            "achieved_ratio": 0.5,
            "jaccard_chance": 1 / 3,
            "protected_mlp": 0.25,
            "refreshes": 1,
        },
    ),
    Diagnostics(
        step=30,
        values={
            "achieved_ratio": 0.5,
            "jaccard_chance": 1 / 3,
            "refreshes": 2,
            "jaccard_previous": 0.8,
            "jaccard_first": 0.8,
            "protected_mlp": 0.75,
            "protected_layer_10": 0.5,
            "protected_layer_2": 0.25,
        },
    ),
    Diagnostics(
        step=35,
        values={
            "achieved_ratio": 0.5,
            "jaccard_chance": 1 / 3,
            "refreshes": 3,
            "jaccard_previous": 0.6,
            "jaccard_first": 0.5,
            "jaccard_experience_1": 0.4,
            "protected_mlp": 0.75,
        },
    ),
)


@pytest.fixture
def masked_run(make_run):
    """A run of two experiences, 20 and 15 steps, whose mask moved."""
    experiences = tuple(
        ExperienceRecord(name=name, tasks=(name,), steps=steps, examples=9)
        for name, steps in (("a", 20), ("b", 15))
    )
    changes = {"mask_statistics": MASK_STATISTICS, "experiences": experiences}
    return make_run().model_copy(update=changes)


@pytest.fixture
def graded_run(make_run):
    """A run of two experiences, 20 and 15 steps; weights were drawn back in the second one."""
    shares = {
        "mlp": (0.75, 0.25), "attention": (0.25, 0.75),
        "layer_10": (0.5, 0.875), "layer_2": (0.5, 0.125),
    }  # fmt: skip
    parts = {k: StiffnessShare(weights=w, stiffness=s) for k, (w, s) in shares.items()}
    experiences = tuple(
        ExperienceRecord(name=name, tasks=(name,), steps=steps, examples=9)
        for name, steps in (("a", 20), ("b", 15))
    )
    graded = (GradedProtection(experience=1, parts=parts),)
    changes = {"graded_protection": graded, "experiences": experiences}
    return make_run("ewc").model_copy(update=changes)


@pytest.fixture(scope="session")
def witness() -> type[Witness]:
    """Makes a witness of an isolation engine."""
    return Witness


HARNESS_TASKS = {
    "epi_words": """
        output_type: multiple_choice
        doc_to_text: "choose: {{question}}"
        doc_to_choice: choices
        doc_to_target: gold
        fewshot_split: train
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
          - {metric: acc_norm, aggregation: mean, higher_is_better: true}
        """,
    "epi_writes": r"""
        output_type: generate_until
        doc_to_text: "second: {{question}}"
        doc_to_target: "{{choices[gold]}}"
        generation_kwargs: {until: ["\n"], do_sample: false, max_gen_toks: 5}
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        filter_list:
          - {name: first, filter: [{function: take_first}]}
          - name: word
            filter: [{function: regex, regex_pattern: "(\\w+)"}, {function: take_first}]
        """,
    "epi_perplexity": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: question
        metric_list:
          - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
        """,
    "epi_unsafe": """
        output_type: generate_until
        unsafe_code: true
        doc_to_text: question
        doc_to_target: question
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        """,
}


@pytest.fixture(scope="session")
def harness_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with tasks of lm-evaluation-harness on 12 rows, known to this process; else a skip.

    Each row names two words and offers three; the second is right, in every third row the first.
    """
    pytest.importorskip("lm_eval")
    import datasets

    from epi_bench.task import harness_task

    folder = tmp_path_factory.mktemp("harness")
    words = ["red", "green", "blue", "one"]
    pairs = [(a, b) for a in words for b in words if a != b]
    rows = []
    for a, b in pairs:
        choices = sorted({a, b, next(word for word in words if word not in (a, b))})
        right = a if len(rows) % 3 == 2 else b
        rows.append({"question": f"{a} {b}", "choices": choices, "gold": choices.index(right)})
    lines = [json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "shown.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    files = f"{{test: {folder / 'rows.jsonl'}, train: {folder / 'shown.jsonl'}}}"
    for name, definition in HARNESS_TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {files}}}\n"
        head += "test_split: test\ntraining_split: train\n"
        (folder / f"{name}.yaml").write_text(head + dedent(definition), encoding="utf-8")
    (folder / "group.yaml").write_text("group: epi_group\ntask: [epi_words, epi_writes]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        patch.setattr(harness_task, "_FOLDERS", [])
        harness_task.use_task_folder(folder)
        yield folder
