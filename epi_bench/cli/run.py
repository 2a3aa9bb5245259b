"""``epi-bench run``: train strategies on a stream."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from epi_bench.runs.request import RunRequest
    from epi_bench.spec.run_spec import RunSpec


class TaskOrder(StrEnum):
    """Choices of ``--order``."""

    given = "given"
    reversed = "reversed"
    random = "random"


STREAM, DATA, TRAINING, OUTPUT = "Stream", "Model and data", "Training", "Output"
JUDGE = "Judge model for open-ended answers"


def run(
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", "-s", help="Names separated by commas, or all.  [default: epi]"),
    ] = None,
    set_option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[STRATEGY.]NAME=VALUE",
            help="Hyperparameter of a strategy; repeatable. See: epi-bench strategies show NAME.",
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file that registers more; repeatable."),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="See: epi-bench streams list.  [default: sequential]", rich_help_panel=STREAM
        ),
    ] = None,
    order: Annotated[
        TaskOrder | None,
        typer.Option(
            help="Task order; random draws one for each seed.  [default: given]",
            rich_help_panel=STREAM,
        ),
    ] = None,
    stream_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the stream; repeatable.", rich_help_panel=STREAM
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="First seed.  [default: 0]", rich_help_panel=STREAM),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many seeds, counting up.", rich_help_panel=STREAM)
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny, a local folder, a .gguf file or a hub id.  [default: tiny]",
            rich_help_panel=DATA,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Hub revision of the model.", rich_help_panel=DATA)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16 weights.", rich_help_panel=DATA),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Names of tasks or suites, or .toml files that describe them, separated by "
            "commas. See: epi-bench tasks list.  [default: mini]",
            rich_help_panel=DATA,
        ),
    ] = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TASK.]NAME=VALUE",
            help="Option of a task; repeatable. See: epi-bench tasks show NAME.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="EPI_BENCH_DATA",
            help="Folder with local data sets instead of the hub.",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_examples: Annotated[
        int | None,
        typer.Option(help="Training examples of each task; all if left out.", rich_help_panel=DATA),
    ] = None,
    test_examples: Annotated[
        int | None,
        typer.Option(help="Test examples of each task; all if left out.", rich_help_panel=DATA),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Longest conversation in tokens.", rich_help_panel=DATA),
    ] = None,
    mask_history: Annotated[
        bool | None,
        typer.Option(
            help="Train on the last assistant turn only.  [default: every assistant turn]",
            rich_help_panel=DATA,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps for each task.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the data, instead of --steps.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples of a micro-batch.", rich_help_panel=TRAINING)
    ] = None,
    accumulation: Annotated[
        int | None,
        typer.Option(help="Micro-batches of a step.", rich_help_panel=TRAINING),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule.", rich_help_panel=TRAINING)
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw, sgd or adafactor.", rich_help_panel=TRAINING)
    ] = None,
    autocast: Annotated[
        str | None,
        typer.Option(help="Mixed precision: none or bf16.", rich_help_panel=TRAINING),
    ] = None,
    master_weights: Annotated[
        str | None,
        typer.Option(
            help="How bfloat16 weights are trained: float32, or none for stochastic rounding in "
            "less memory.  [default: float32]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(help="Trade time for memory.", rich_help_panel=TRAINING),
    ] = None,
    evaluation_batch_size: Annotated[
        int | None, typer.Option(help="Examples scored at once.", rich_help_panel=TRAINING)
    ] = None,
    probe_examples: Annotated[
        int | None,
        typer.Option(
            help="Examples of each task's gradient-conflict probe; 0 turns the probes off.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest answer to generate, for tasks that allow a longer one.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with any of these settings; flags override it. "
            "Every run writes the file that repeats it."
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            help="Train the single-task references first, for intransigence, interference and "
            "the normalised score.",
        ),
    ] = False,
    allow_code_execution: Annotated[
        bool, typer.Option(help="Let tasks run code that the model wrote, in a sandbox.")
    ] = False,
    judge_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible endpoint; its key is read from EPI_BENCH_JUDGE_KEY.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Judge model at that endpoint.", rich_help_panel=JUDGE),
    ] = None,
    judge_prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file laid over the shipped prompts, see docs/judge.md.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_rate: Annotated[
        int | None,
        typer.Option(
            help="Requests a minute at most, 300 if left out; 0 sets no limit.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in its own process.")] = 1,
    force: Annotated[bool, typer.Option(help="Make finished runs anew.")] = False,
    out: Annotated[
        Path,
        typer.Option(help="Folder for runs/ and leaderboards/.", rich_help_panel=OUTPUT),
    ] = Path(),
    save_model: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the trained model, loadable by transformers.", rich_help_panel=OUTPUT
        ),
    ] = None,
    log_predictions: Annotated[
        bool,
        typer.Option(
            help="Write what the trained model said to each test item to predictions.jsonl.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    publish: Annotated[
        bool, typer.Option(help="Copy the record to leaderboards/.", rich_help_panel=OUTPUT)
    ] = True,
    quiet: Annotated[
        bool, typer.Option(help="No progress, no tables.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Train one or more strategies on a stream of tasks and record what they keep and cost."""
    from epi_bench.api.selection import Selection
    from epi_bench.cli.execution import execute
    from epi_bench.evaluation.judge.settings import judge_settings

    given = {
        "model": {"name": model, "revision": revision, "dtype": dtype},
        "stream": {"kind": stream, "order": order.value if order else None},
        "data": {
            "train_examples": train_examples,
            "test_examples": test_examples,
            "max_length": max_length,
            "mask_history": mask_history,
        },
        "training": {
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "autocast": autocast,
            "master_weights": master_weights,
            "gradient_checkpointing": gradient_checkpointing,
        },
        "evaluation": {
            "batch_size": evaluation_batch_size,
            "probe_examples": probe_examples,
            "max_new_tokens": max_new_tokens,
        },
        "seed": seed,
    }
    selection = Selection(
        given=given,
        strategies=strategy,
        strategy_options=set_option or [],
        tasks=tasks,
        stream_options=stream_option or [],
        task_options=task_option or [],
        seeds=seeds,
        config=config,
        plugins=plugin or [],
        data_dir=data_dir,
    )
    specs, request = _resolve(
        selection,
        out=out,
        references=references,
        force=force,
        allow_code_execution=allow_code_execution,
        save_model=save_model,
        log_predictions=log_predictions,
        published=publish,
        judge=judge_settings(judge_url, judge_model, judge_prompts, judge_rate),
    )
    if selection.left_out and not quiet:
        typer.echo(
            "left out, because on a stream of one experience they train as full_sft does: "
            + ", ".join(selection.left_out)
        )
    execute(specs, request, jobs=jobs, quiet=quiet)


def _resolve(selection: Any, out: Path, **how: Any) -> tuple[list[RunSpec], RunRequest]:
    from epi_bench.errors import UserError
    from epi_bench.results.record.workspace import Workspace
    from epi_bench.runs.request import RunRequest

    specs = selection.specs()
    if how["save_model"] and len(specs) > 1:
        raise UserError(
            f"--save-model keeps one model, but {len(specs)} runs were asked for: "
            "name one strategy and one seed"
        )
    return specs, RunRequest(
        workspace=Workspace(out),
        data_dir=selection.data_folder,
        plugins=tuple(selection.plugin_files),
        task_files=tuple(selection.task_files),
        **how,
    )
