"""Compare scoring with lm-evaluation-harness, item by item, and the time both take.

Both get the same model object, the same rows and the same batch size. lm-evaluation-harness runs
its own ``gsm8k`` and ``logiqa`` tasks (prompt, filters, metrics) on them, offline and with the chat
template; of ``gsm8k`` the bare question is asked, without examples, as here. The rounds alternate,
so that a change in the machine's speed hits both alike. Times are those of tokenising and asking
the model, for the same answers: the log-likelihood of the references, which lm-eval does not
compute, is left out unless ``--reference-loss`` asks for it.

    pip install lm-eval
    python scripts/compare_with_lm_eval.py --data-dir DATA --model tiny --examples 100
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from epi_bench.evaluation.evaluator import TaskEvaluator
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.load import Backbone, load_backbone
from epi_bench.spec.defaults import complete_spec
from epi_bench.task.example import Example, Prediction
from epi_bench.task.task import TASKS, Task

METRICS = {
    "gsm8k": {
        "strict_match": ("strict-match", "exact_match"),
        "flexible_match": ("flexible-extract", "exact_match"),
    },
    "logiqa": {"acc": ("none", "acc"), "acc_norm": ("none", "acc_norm")},
}
"""Task -> our metric -> filter and metric of lm-eval."""

TASK_FILE = """
include: {folder}/{task}/{task}.yaml
task: {task}_here
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {rows}}}}}
training_split: null
validation_split: null
fewshot_split: null
test_split: test
num_fewshot: 0
"""

GENERATION = """
doc_to_text: "{{{{question}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {max_new_tokens}}}
"""


@dataclass
class Side:
    """What one of the two contestants said, and how long it took.

    Attributes:
        times: Wall-clock and processor seconds of each round.
        results: Metrics of each item.
        answers: Text, or log-likelihoods of the options, of each item.
    """

    times: list[tuple[float, float]] = field(default_factory=list)
    results: list[dict[str, float]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


class Clock:
    """Wall-clock and processor time since it was made."""

    def __init__(self) -> None:
        self._started = (perf_counter(), process_time())

    def read(self) -> tuple[float, float]:
        """Seconds on the wall, and seconds of the processor (other programs leave it alone)."""
        return perf_counter() - self._started[0], process_time() - self._started[1]


class TimedHFLM(HFLM):
    """The ``hf`` backend of lm-eval with a clock."""

    time = (0.0, 0.0)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As the parent's."""
        clock = Clock()
        found = super().loglikelihood(requests, disable_tqdm=True)
        self.time = clock.read()
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As the parent's."""
        clock = Clock()
        found = super().generate_until(requests, disable_tqdm=True)
        self.time = clock.read()
        return found


def lm_eval_rows(task: str, data_dir: Path, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The examples' rows in the layout that lm-eval's task reads."""
    text = (data_dir / task / "test.jsonl").read_text(encoding="utf-8")
    lines = text.splitlines()
    rows = [json.loads(lines[example.meta["row"]]) for example in examples]
    if task == "logiqa" and "query" in rows[0]:
        for row in rows:
            row["question"] = row.pop("query")
            row["label"] = "abcd"[row.pop("correct_option")]
    return rows


def ask_here(
    side: Side,
    task: Task,
    examples: Sequence[Example],
    backbone: Backbone,
    arguments: argparse.Namespace,
) -> None:
    """One round of ours."""
    encoder = ChatEncoder(backbone.tokenizer, arguments.max_length)
    clock = Clock()
    evaluator = TaskEvaluator(
        task,
        examples,
        encoder,
        arguments.batch_size,
        reference_loss=arguments.reference_loss,
    )
    predictions = evaluator.predict(backbone.model)
    side.times.append(clock.read())
    side.results += evaluator.results(predictions)
    side.answers += [_answer_of(prediction) for prediction in predictions]


def ask_lm_eval(
    side: Side, backend: TimedHFLM, manager: TaskManager, name: str, items: Sequence[int]
) -> None:
    """One round of lm-eval's."""
    found = lm_eval.simple_evaluate(
        model=backend,
        tasks=[f"{name}_here"],
        task_manager=manager,
        samples={f"{name}_here": list(items)},
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    side.times.append(backend.time)
    samples = {(s["doc_id"], s["filter"]): s for s in found["samples"][f"{name}_here"]}
    filters = METRICS[name]
    for item in items:
        side.results.append(
            {
                ours: float(samples[item, filter_name][metric])
                for ours, (filter_name, metric) in filters.items()
            }
        )
        first = samples[item, next(iter(filters.values()))[0]]["resps"]
        side.answers.append(
            first[0][0] if name == "gsm8k" else tuple(float(r[0][0]) for r in first)
        )


def task_manager(
    name: str, examples: Sequence[Example], folder: Path, arguments: argparse.Namespace
) -> TaskManager:
    """A task manager that knows lm-eval's task on the examples' rows."""
    rows = folder / "rows.jsonl"
    lines = [json.dumps(row) for row in lm_eval_rows(name, arguments.data_dir, examples)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    content = TASK_FILE + (GENERATION if name == "gsm8k" else "")
    content = content.format(
        folder=Path(lm_eval.__file__).parent / "tasks",
        task=name,
        rows=rows,
        max_new_tokens=arguments.max_new_tokens,
    )
    (folder / "here.yaml").write_text(content, encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def compare(name: str, backbone: Backbone, arguments: argparse.Namespace) -> None:
    """Ask both and print agreement and times of one task."""
    task = TASKS.get(name)(arguments.data_dir)
    task.card = replace(task.card, max_new_tokens=arguments.max_new_tokens)  # type: ignore[misc]
    examples = list(task.examples("test")[: arguments.examples])
    backend = TimedHFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        add_bos_token=False,
    )
    ours, theirs = Side(), Side()
    with tempfile.TemporaryDirectory() as folder:
        manager = task_manager(name, examples, Path(folder), arguments)
        size = -(-len(examples) // arguments.rounds)
        for turn, start in enumerate(range(0, len(examples), size)):
            part = range(start, min(start + size, len(examples)))
            chosen = examples[part.start : part.stop]
            for contestant in ("here", "lm-eval") if turn % 2 == 0 else ("lm-eval", "here"):
                if contestant == "here":
                    ask_here(ours, task, chosen, backbone, arguments)
                else:
                    ask_lm_eval(theirs, backend, manager, name, part)
    report(name, ours, theirs)


def report(name: str, ours: Side, theirs: Side) -> None:
    """Print the comparison of one task."""
    count = len(ours.results)
    print(f"{name}: {count} items")
    for metric in METRICS[name]:
        pairs = [(a[metric], b[metric]) for a, b in zip(ours.results, theirs.results, strict=True)]
        same = sum(a == b for a, b in pairs)
        means = [100 * sum(column) / count for column in zip(*pairs, strict=True)]
        print(
            f"  {metric:16} epi-bench {means[0]:6.2f}  lm-eval {means[1]:6.2f}  "
            f"equal on {same} of {count} items ({100 * same / count:.1f} %)"
        )
    answers: list[tuple[Any, Any]] = list(zip(ours.answers, theirs.answers, strict=True))
    if name == "gsm8k":
        same = sum(a == b for a, b in answers)
        print(f"  generated texts: {same} of {count} equal")
    else:
        # lm-eval counts the line break that ends the template's generation prompt to the answer,
        # so its sums differ by the same amount for all options of a question.
        gaps = [[x - y for x, y in zip(a, b, strict=True)] for a, b in answers if len(a) == len(b)]
        widest = max(max(gap) - min(gap) for gap in gaps)
        print(f"  log-likelihoods between a question's options differ by up to {widest:.2g} nats")
    for kind, clock in enumerate(("wall clock", "processor")):
        here = [time[kind] for time in ours.times]
        there = [time[kind] for time in theirs.times]
        ratios = ", ".join(f"{b / a:.2f}" for a, b in zip(here, there, strict=True))
        print(
            f"  {clock}: epi-bench {sum(here):.1f} s, lm-eval hf backend {sum(there):.1f} s, "
            f"epi-bench {sum(there) / sum(here):.2f} times as fast (by round: {ratios})",
            flush=True,
        )


def _answer_of(prediction: Prediction) -> Any:
    return prediction.option_log_likelihoods or prediction.text


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .gguf file or a hub id")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of local data sets")
    parser.add_argument("--tasks", default="gsm8k,logiqa")
    parser.add_argument("--examples", type=int, default=100, help="test items of each task")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=2048, help="longest input in tokens")
    parser.add_argument("--rounds", type=int, default=2, help="parts that the items are cut into")
    parser.add_argument("--reference-loss", action="store_true", help="time it, too")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    spec = complete_spec({"model": {"name": arguments.model, "dtype": arguments.dtype}})
    backbone = load_backbone(spec.model)
    print(
        f"{arguments.model}, {arguments.dtype}, batch size {arguments.batch_size}, "
        f"{arguments.threads} thread(s), lm-eval {lm_eval.__version__}"
    )
    for name in arguments.tasks.split(","):
        compare(name, backbone, arguments)


if __name__ == "__main__":
    main()
